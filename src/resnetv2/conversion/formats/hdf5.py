"""Keras's HDF5 files: legacy .h5, Keras 3's .weights.h5, and the one inside a .keras archive."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from resnetv2.conversion.formats.budget import MAX_BYTES, Budget
from resnetv2.errors import ConvertError, MissingExtra

_MAX_DEPTH = 16
_MEMBER = "model.weights.h5"


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Return the datasets of an HDF5 file by their whole paths, such as "conv1_conv/conv1_conv/kernel:0".

    Raises:
        ConvertError: links out of the file or in circles, data kept elsewhere, or datasets that are no numbers.
        MissingExtra: h5py is not installed.
    """
    with _h5py().File(path, "r") as file:
        return _read(file)


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the datasets of the weights inside a .keras archive, as ``read_hdf5`` does."""
    with ZipFile(path) as archive:
        size = archive.getinfo(_MEMBER).file_size
        if size > MAX_BYTES:
            raise ConvertError(f"{_MEMBER} claims {size:,} bytes")
        with archive.open(_MEMBER) as member:
            data = member.read(size)
    with _h5py().File(io.BytesIO(data), "r") as file:
        return _read(file)


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtra("reading and writing HDF5 files", "convert") from error
    return h5py


def _read(file: Any) -> dict[str, np.ndarray]:
    budget = Budget()
    found = dict(_datasets(file, "", set(), 0))
    for name, dataset in found.items():
        budget.take(name, dataset.shape, dataset.dtype)
    return {name: np.asarray(dataset[()]) for name, dataset in found.items()}


def _datasets(group: Any, prefix: str, seen: set[Any], depth: int) -> Iterator[tuple[str, Any]]:
    h5py = _h5py()
    if depth > _MAX_DEPTH:
        raise ConvertError(f"groups deeper than {_MAX_DEPTH}: {prefix[:80]}")
    for name in group:
        path = prefix + name
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            raise ConvertError(f"{path} is a link to another place; only data within the file are read")
        item = group[name]
        info = h5py.h5o.get_info(item.id)
        if (info.fileno, info.addr) in seen:
            raise ConvertError(f"{path} is another name for an object that was already read")
        seen.add((info.fileno, info.addr))
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{path}/", seen, depth + 1)
        elif (
            isinstance(item, h5py.Dataset) and not item.is_virtual and item.external is None and item.shape is not None
        ):
            yield path, item
        else:
            raise ConvertError(f"{path} is no dataset with its data in this file")


def write_legacy_keras(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays named "layer/variable" as Keras 2's file of weights, layers in the order they are given in.

    Keras fills its layers in order, not by name.

    Raises:
        MissingExtra: h5py is not installed.
    """
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.partition("/")[0], []).append(name)
    with _h5py().File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.15.0"  # the last whose layout this is
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names])
            for name in names:
                group.create_dataset(f"{name}:0", data=tensors[name])


def write_keras(path: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a .keras archive, which ``keras.saving.load_model`` opens. The same content gives the same bytes.

    Args:
        path: the file.
        config: the model's config.json.
        tensors: arrays by their paths in the archive's file of weights, such as "layers/conv2d/vars/0".

    Raises:
        MissingExtra: h5py is not installed.
    """
    weights = io.BytesIO()
    with _h5py().File(weights, "w") as file:
        for name, value in tensors.items():
            file.create_dataset(name, data=value)
    members = {
        "metadata.json": json.dumps({"keras_version": "3.0.0"}).encode(),  # the first whose layout this is
        "config.json": json.dumps(config).encode(),
        _MEMBER: weights.getvalue(),
    }
    with ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(ZipInfo(name), data)
