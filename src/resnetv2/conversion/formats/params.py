"""MXNet's .params: a list of arrays and a list of their names, little-endian."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnetv2.conversion.formats.budget import MAX_TENSORS, Budget
from resnetv2.conversion.formats.cursor import Cursor
from resnetv2.errors import ConvertError

MAGIC = (0x112).to_bytes(8, "little")
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # before them, an array began with its number of dimensions
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?"}


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an MXNet parameter file by name, such as "features.0.gamma" or "arg:conv0_weight".

    Raises:
        ConvertError: a damaged file, sparse arrays, or sizes that are not what they claim.
    """
    cursor = Cursor(path.read_bytes())
    if cursor.take(8) != MAGIC:
        raise ConvertError("no MXNet parameter file")
    cursor.number("<Q")  # reserved
    count = _count(cursor)
    arrays = [_array(cursor) for _ in range(count)]
    if _count(cursor) != count:
        raise ConvertError("there are not as many names as arrays")
    budget = Budget()
    tensors = {}
    for array in arrays:
        name = bytes(cursor.take(cursor.number("<Q"))).decode("utf-8")
        budget.take(name, array.shape, array.dtype)
        tensors[name] = array
    if cursor.place != len(cursor.data):
        raise ConvertError("there are bytes after the last name")
    return tensors


def _count(cursor: Cursor) -> int:
    count = cursor.number("<Q")
    if count > MAX_TENSORS:
        raise ConvertError(f"the file claims {count:,} tensors")
    return count


def _array(cursor: Cursor) -> np.ndarray:
    shape = _shape(cursor)
    cursor.take(8)  # the device it was on
    kind = cursor.number("<i")
    if kind not in _DTYPES:
        raise ConvertError(f"an array has the unknown data type {kind}")
    dtype = np.dtype(_DTYPES[kind])
    size = Budget().take("an array", shape, dtype)
    return np.frombuffer(cursor.take(size), dtype).reshape(shape)


def _shape(cursor: Cursor) -> list[int]:
    magic = cursor.number("<I")
    modern = magic in (_V1, _V2, _V3)
    if magic in (_V2, _V3) and cursor.number("<i") != 0:
        raise ConvertError("an array is sparse")
    dimensions = cursor.number("<I") if modern else magic
    if not 1 <= dimensions <= 8:
        raise ConvertError(f"an array claims {dimensions} dimensions")
    return [cursor.number("<q" if modern else "<I") for _ in range(dimensions)]
