"""Memory kept between the steps of a training run, and given back after it."""

import ctypes
import subprocess
import sys

import pytest
import torch

from resnetv2.kernels.memory import reuse_memory

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="other systems have no such setting"
)
# In a process of its own: what other work has left in the heap would be used again too.
START = """
import resource
from pathlib import Path
import torch
from resnetv2.kernels.memory import reuse_memory

BLOCKS, SIZE = 4, 48 << 20  # above the 32 MiB from which glibc gives back at once

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def use():  # writes to a few large blocks and frees them; returns how much more the process holds than before
    before = resident()
    blocks = [torch.ones(SIZE, dtype=torch.uint8) for _ in range(BLOCKS)]
    del blocks
    return resident() - before

use()
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@glibc
def test_what_is_freed_within_the_block_is_kept_and_used_again():
    run("""
assert use() < SIZE
with reuse_memory():
    assert use() > (BLOCKS - 1) * SIZE
    for _ in range(5):  # what is kept finds its places
        use()
    assert use() < SIZE / 2
""")


@glibc
def test_memory_is_given_back_when_the_block_fails():
    run("""
before = resident()

@reuse_memory()
def fail():
    use()
    raise ZeroDivisionError

try:
    fail()
except ZeroDivisionError:
    pass
assert resident() - before < SIZE
""")


def test_elsewhere_the_block_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # would fail if it were called
    with reuse_memory():
        assert torch.ones(3).sum() == 3
