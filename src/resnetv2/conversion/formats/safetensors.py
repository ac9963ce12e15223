"""The tensors of a .safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open

from resnetv2.conversion.formats.bfloat16 import widen_bfloat16
from resnetv2.conversion.formats.budget import Budget


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file by name; bfloat16, which NumPy lacks, becomes float32 exactly."""
    taken = Budget()
    with safe_open(path, "numpy") as file:  # checks the header: what stands in it can be trusted from here on
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  it has only keys()
        tensors = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
    tensors |= _bfloat16(path, kinds.keys() - tensors.keys())
    for name, value in tensors.items():
        taken.take(name, value.shape, value.dtype)
    return tensors


def _bfloat16(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name in names:
        start, end = header[name]["data_offsets"]
        bits = np.fromfile(path, "<u2", (end - start) // 2, offset=8 + size + start)
        tensors[name] = widen_bfloat16(bits).reshape(header[name]["shape"])
    return tensors
