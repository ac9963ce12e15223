"""A graph as the bytes of an ONNX model, and the texts kept in one. The ``onnx`` package is not needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnetv2.conversion.formats.protobuf import Message, encode
from resnetv2.errors import ConvertError, ModelFileError
from resnetv2.runtime.graph import INPUT, OPSET, Graph, Node

_IR_VERSION = 8  # the version of the format that came with opset 17
_MAX_BYTES = (2 << 30) - (1 << 20)  # protobuf's limit, less a megabyte for the graph
_TYPES = {"float32": 1, "uint8": 2, "int64": 7}
_GRAPH, _OPSETS, _METADATA, _OUTPUTS = 7, 8, 14, 12  # field numbers of onnx.proto3


def encode_onnx(graph: Graph) -> bytes:
    """Return the ONNX model of a graph.

    Raises:
        ModelFileError: the weights are more than an ONNX file holds.
    """
    size = sum(value.nbytes for value in graph.arrays.values())
    if size > _MAX_BYTES:
        raise ModelFileError(f"an ONNX model holds less than 2 GiB, the weights are {size:,} bytes: use PyTorch")
    parts = [encode(1, _node(node)) for node in graph.nodes]
    parts.append(encode(2, b"resnetv2"))
    parts += [encode(5, _tensor(name, value)) for name, value in graph.arrays.items()]
    parts.append(encode(11, _value(INPUT, "uint8", (graph.side, graph.side, 3))))
    parts += [encode(_OUTPUTS, _value(name, "float32", shape)) for name, shape in graph.outputs.items()]
    opset = encode(1, b"") + encode(2, OPSET)
    head = [encode(1, _IR_VERSION), encode(2, b"resnetv2"), encode(_OPSETS, opset)]
    return b"".join([*head, encode(_GRAPH, b"".join(parts))])


def encode_texts(texts: Mapping[str, str]) -> bytes:
    """Return what makes an ONNX model hold texts (``metadata_props``) when it is appended to the model's bytes."""
    entries = ((name.encode(), text.encode()) for name, text in texts.items())
    return b"".join(encode(_METADATA, encode(1, name) + encode(2, text)) for name, text in entries)


def encode_output(name: str) -> bytes:
    """Return what makes a value of an ONNX model an output of it when it is appended to the model's bytes.

    Protobuf merges the parts of a message, so that nothing before them need be read.
    """
    return encode(_GRAPH, encode(_OUTPUTS, encode(1, name.encode())))


def model_parts(data: memoryview) -> list[bytes | memoryview]:
    """Return the parts of an ONNX model that decide what it computes: its graphs and the sets of operators."""
    message = Message(data)
    return [*message.all_bytes(_GRAPH), *message.all_bytes(_OPSETS)]


def read_texts(data: memoryview) -> dict[str, str]:
    """Return the texts that an ONNX model holds.

    Raises:
        ModelFileError: this is no ONNX model.
    """
    try:
        message = Message(data)
        texts = {entry.text(1): entry.text(2) for entry in message.messages(_METADATA)}
    except (ConvertError, UnicodeDecodeError) as error:
        raise ModelFileError(f"no readable ONNX model (truncated, damaged or foreign): {error}") from error
    if _GRAPH not in message:
        raise ModelFileError("no ONNX model: it has no graph")
    return texts


def _node(node: Node) -> bytes:
    parts = [encode(1, name.encode()) for name in node.inputs]
    parts += [encode(2, node.name.encode()), encode(3, node.name.encode()), encode(4, node.op.encode())]
    parts += [encode(5, _attribute(name, value)) for name, value in node.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: Any) -> bytes:
    first = encode(1, name.encode())
    if isinstance(value, float):
        return first + encode(2, struct.pack("<f", value), wire=5) + encode(20, 1)
    if isinstance(value, int):
        return first + encode(3, value) + encode(20, 2)
    return first + b"".join(encode(8, number) for number in value) + encode(20, 7)


def _tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(encode(1, size) for size in value.shape)
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return dims + encode(2, _TYPES[value.dtype.name]) + encode(8, name.encode()) + encode(9, little.tobytes())


def _value(name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    dims = [encode(1, encode(2, b"N")), *(encode(1, encode(1, size)) for size in shape)]
    tensor = encode(1, _TYPES[kind]) + encode(2, b"".join(dims))
    return encode(1, name.encode()) + encode(2, encode(1, tensor))
