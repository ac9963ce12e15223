"""NumPy's .npz: a zip of .npy arrays, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from resnetv2.conversion.formats.budget import MAX_TENSORS, Budget
from resnetv2.errors import ConvertError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name. Nothing is unpickled, and no member becomes a file.

    Raises:
        ConvertError: members that are no arrays of numbers, or whose size is not what they claim.
    """
    budget = Budget()
    with ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_TENSORS:
            raise ConvertError(f"more than {MAX_TENSORS:,} members")
        return {member.filename.removesuffix(".npy"): _read(archive, member, budget) for member in members}


def _read(archive: ZipFile, member: ZipInfo, budget: Budget) -> np.ndarray:
    if not member.filename.endswith(".npy"):
        raise ConvertError(f"{member.filename[:80]!r} is no .npy array")
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file, member.filename)
        size = budget.take(member.filename.removesuffix(".npy"), shape, dtype)
        if size != member.file_size - file.tell():
            raise ConvertError(f"{member.filename} claims {size:,} bytes and has {member.file_size - file.tell():,}")
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise ConvertError(f"{member.filename} is not as long as the archive says")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ConvertError(f"{name} has the unknown .npy version {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    return shape, fortran, dtype
