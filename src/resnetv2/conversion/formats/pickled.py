"""PyTorch's .pth and .bin, which are pickles: opened in a process of their own, by torch's reader of weights alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from resnetv2.conversion.formats.budget import MAX_BYTES
from resnetv2.conversion.formats.npz import read_npz
from resnetv2.errors import ConvertError, MissingExtra

_SECONDS = 600
_MEMORY = 3 * MAX_BYTES  # the file's tensors, a copy, and torch itself

_CHILD = """
import contextlib, sys
source, target, memory = sys.argv[1:]
with contextlib.suppress(ImportError):  # Windows has no such limit
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
import numpy, torch
torch.set_num_threads(1)
state = torch.load(source, map_location="cpu", weights_only=True)
if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
    state = state["state_dict"]
others = [] if isinstance(state, dict) else ["the file itself"]
arrays = {}
for name, value in ({} if others else state).items():
    if isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided:
        value = value.detach()
        arrays[name] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    else:
        others.append(repr(name)[:80])
if others:
    sys.exit("not a dict of tensors by name: " + ", ".join(others[:12]))
numpy.savez(target, **arrays)
"""


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a PyTorch file by name; one inside {"state_dict": …} is taken out.

    ``torch.load(weights_only=True)`` builds tensors and nothing else, in a process with a limit on memory and time:
    what a hostile file breaks is not the caller's.

    Raises:
        ConvertError: the file holds more than tensors, or is damaged.
        MissingExtra: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingExtra("reading a PyTorch file", "train")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "tensors.npz"
        command = [sys.executable, "-I", "-c", _CHILD, str(path.absolute()), str(target), str(_MEMORY)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise ConvertError(f"it took more than {_SECONDS} seconds to open") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ConvertError(f"torch does not open it as weights: {lines[-1][:500] if lines else 'it died'}")
        return read_npz(target)
