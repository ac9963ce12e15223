"""KerasHub's presets: a folder with the backbone's weights in one file and the head's in another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnetv2.conversion.formats.hdf5 import read_hdf5
from resnetv2.errors import ConvertError

_BACKBONE, _HEAD = "model.weights.h5", "task.weights.h5"


def preset_files(folder: Path) -> list[Path]:
    """Return the files of weights of a preset, the backbone's first; empty if ``folder`` is none."""
    if not (folder / _BACKBONE).is_file():
        return []
    return [file for file in (folder / _BACKBONE, folder / _HEAD) if file.is_file()]


def read_preset(folder: Path) -> dict[str, np.ndarray]:
    """Return the datasets of a preset's files together, with the head where the preset has one.

    Raises:
        ConvertError: a tensor is in both files, or one of them is hostile.
        MissingExtra: h5py is not installed.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in preset_files(folder):
        more = read_hdf5(file)
        twice = tensors.keys() & more.keys()
        if twice:
            raise ConvertError(f"tensors that both files of the preset hold: {', '.join(sorted(twice)[:12])}")
        tensors |= more
    return tensors


def refuse_head_alone(path: Path) -> None:
    """Refuse the head's file of a preset where a whole network is expected.

    Raises:
        ConvertError: ``path`` is that file.
    """
    if path.name == _HEAD:
        raise ConvertError(f"the head of a KerasHub preset alone; give the preset's folder, with its {_BACKBONE}")
