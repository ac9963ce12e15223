"""The initializers of an ONNX file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from resnetv2.conversion.formats.budget import MAX_BYTES, Budget
from resnetv2.conversion.formats.protobuf import Message
from resnetv2.errors import ConvertError

# Field numbers of onnx.proto3: ModelProto.graph, GraphProto.initializer, and those of TensorProto
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 1, 2, 4, 8, 9, 10, 13, 14
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_TYPED = {1: _FLOATS, 11: _DOUBLES}  # where numbers are that are not in raw_data


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Return the initializers of an ONNX model by name; its graph is not looked at.

    Raises:
        ConvertError: a damaged message, data kept in another file, or a tensor whose size is not what it claims.
    """
    budget = Budget()
    tensors = {}
    for graph in Message(memoryview(path.read_bytes())).messages(_GRAPH):
        for message in graph.messages(_INITIALIZER):
            name, value = _tensor(message, budget)
            tensors[name] = value
    if not tensors:
        raise ConvertError("no ONNX model, or one without initializers")
    return tensors


def _tensor(message: Message, budget: Budget) -> tuple[str, np.ndarray]:
    name = message.text(_NAME)
    if _EXTERNAL in message or message.number(_LOCATION) != 0:
        raise ConvertError(f"{name[:80]} is kept in another file; only whole models are read")
    kind = message.number(_TYPE)
    if kind not in _DTYPES:
        raise ConvertError(f"{name[:80]} has the unknown data type {kind}")
    dtype = np.dtype(_DTYPES[kind])
    shape = message.numbers(_DIMS)
    if any(number >= 1 << 40 for number in shape) or math.prod(shape) > MAX_BYTES:
        raise ConvertError(f"a tensor claims the shape {shape[:8]}")
    size = budget.take(name, shape, dtype)
    data = b"".join(message.all_bytes(_RAW if _RAW in message else _TYPED.get(kind, _RAW)))
    if len(data) != size:
        raise ConvertError(f"{name[:80]} claims {size:,} bytes and has {len(data):,}")
    return name, np.frombuffer(data, dtype).reshape(shape)
