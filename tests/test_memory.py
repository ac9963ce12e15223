"""Memory kept between the steps of a training run, and given back after it."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from resnetv2.kernels.memory import reuse_memory

BLOCKS, MIB = 4, 1 << 20
SIZE = 48 * MIB  # above the 32 MiB from which glibc gives back at once

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="other systems have no such setting"
)


def resident():
    """Return the bytes that the process holds."""
    import resource  # not on Windows

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def use():
    """Write to a few large blocks and free them; return how much more the process holds than before."""
    before = resident()
    blocks = [torch.ones(SIZE, dtype=torch.uint8) for _ in range(BLOCKS)]
    del blocks
    return resident() - before


@glibc
def test_what_is_freed_within_the_block_is_kept_and_used_again():
    assert use() < SIZE
    with reuse_memory():
        assert use() > (BLOCKS - 1) * SIZE
        for _ in range(5):  # what is kept finds its places
            use()
        assert use() < SIZE / 2


@glibc
def test_memory_is_given_back_when_the_block_fails():
    before = resident()

    @reuse_memory()
    def fail():
        use()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert resident() - before < SIZE


def test_elsewhere_the_block_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # would fail if it were called
    with reuse_memory():
        assert torch.ones(3).sum() == 3
