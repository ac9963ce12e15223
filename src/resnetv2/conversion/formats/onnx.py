"""The initializers of an ONNX file, by a reader of the few protobuf fields they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnetv2.conversion.formats.budget import MAX_BYTES, Budget
from resnetv2.errors import ConvertError

# Field numbers of onnx.proto3: ModelProto.graph, GraphProto.initializer, and those of TensorProto
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 1, 2, 4, 8, 9, 10, 13, 14
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_TYPED = {1: _FLOATS, 11: _DOUBLES}  # where numbers are that are not in raw_data

Value = int | memoryview


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Return the initializers of an ONNX model by name; its graph is not looked at.

    Raises:
        ConvertError: a damaged message, data kept in another file, or a tensor whose size is not what it claims.
    """
    budget = Budget()
    tensors = {}
    for graph in _messages(memoryview(path.read_bytes()), _GRAPH):
        for message in _messages(graph, _INITIALIZER):
            name, value = _tensor(message, budget)
            tensors[name] = value
    if not tensors:
        raise ConvertError("no ONNX model, or one without initializers")
    return tensors


def _tensor(message: memoryview, budget: Budget) -> tuple[str, np.ndarray]:
    fields: dict[int, list[Value]] = {}
    for field, value in _fields(message):
        fields.setdefault(field, []).append(value)
    name = bytes(_last(fields, _NAME)).decode("utf-8")
    if _EXTERNAL in fields or fields.get(_LOCATION, [0])[-1] != 0:
        raise ConvertError(f"{name[:80]} is kept in another file; only whole models are read")
    kind = fields.get(_TYPE, [0])[-1]
    if kind not in _DTYPES:
        raise ConvertError(f"{name[:80]} has the unknown data type {kind}")
    dtype = np.dtype(_DTYPES[int(kind)])
    shape = _numbers(fields.get(_DIMS, []))
    size = budget.take(name, shape, dtype)
    data = b"".join(_chunks(fields, int(kind)))
    if len(data) != size:
        raise ConvertError(f"{name[:80]} claims {size:,} bytes and has {len(data):,}")
    return name, np.frombuffer(data, dtype).reshape(shape)


def _chunks(fields: dict[int, list[Value]], kind: int) -> Iterator[memoryview]:
    for value in fields.get(_RAW) or fields.get(_TYPED.get(kind, _RAW), []):
        if isinstance(value, int):
            raise ConvertError("a tensor's data is a single number")
        yield value


def _last(fields: dict[int, list[Value]], field: int) -> memoryview:
    value = fields.get(field, [memoryview(b"")])[-1]
    if isinstance(value, int):
        raise ConvertError(f"field {field} is a number instead of bytes")
    return value


def _numbers(values: list[Value]) -> list[int]:
    """Return repeated numbers, packed or not."""
    numbers = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
        else:
            place = 0
            while place < len(value):
                number, place = _varint(value, place)
                numbers.append(number)
    if any(number >= 1 << 40 for number in numbers) or math.prod(numbers) > MAX_BYTES:
        raise ConvertError(f"a tensor claims the shape {numbers[:8]}")
    return numbers


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for field, value in _fields(data):
        if field == wanted and isinstance(value, memoryview):
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield (field number, number or bytes) of one protobuf message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ConvertError(f"a damaged message: wire type {kind}")
        if length > len(data) - place:
            raise ConvertError("a damaged message: it ends before its data")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for count in range(10):
        if place >= len(data):
            raise ConvertError("a damaged message: it ends within a number")
        byte = data[place]
        place += 1
        number |= (byte & 127) << (7 * count)
        if byte < 128:
            return number, place
    raise ConvertError("a damaged message: a number without end")
