"""TensorFlow's checkpoints without TensorFlow: of version 2, an index and its data, or of version 1, a single file.

Both are sorted tables whose first key, the empty one, holds a header. Field numbers are those of tensor_bundle.proto,
saved_tensor_slice.proto, tensor.proto and trackable_object_graph.proto.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnetv2.conversion.formats.bfloat16 import widen_bfloat16
from resnetv2.conversion.formats.budget import MAX_BYTES, Budget
from resnetv2.conversion.formats.crc32c import crc32c, mask
from resnetv2.conversion.formats.protobuf import Message, varint
from resnetv2.conversion.formats.sstable import read_sstable
from resnetv2.errors import ConvertError

INDEX = ".index"
_MAX_SHARDS = 10_000
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_STRING, _BFLOAT16 = 7, 14


class _Kind(NamedTuple):
    dtype: np.dtype
    field: int  # of TensorProto, where version 1 has the numbers


_KINDS = {
    kind: _Kind(np.dtype(dtype), field)
    for kind, dtype, field in (
        (1, "<f4", 5),
        (2, "<f8", 6),
        (3, "<i4", 7),
        (4, "u1", 7),
        (5, "<i2", 7),
        (6, "i1", 7),
        (9, "<i8", 10),
        (10, "?", 11),
        (_BFLOAT16, "<u2", 13),
        (17, "<u2", 7),
        (19, "<f2", 13),
    )
}


def read_tensorflow(path: Path) -> dict[str, np.ndarray]:
    """Return the variables of a checkpoint by name, such as "resnet_v2_50/conv1/weights"; bfloat16 becomes float32.

    Texts are left out. A checkpoint of TensorFlow 2's objects gives its variables their full names, where it has them.
    Every checksum is compared.

    Args:
        path: PREFIX.index, beside its PREFIX.data-00000-of-00001, or a checkpoint of version 1.

    Raises:
        ConvertError: damaged, a file of it is absent, or it holds partitioned variables.
    """
    table = {key.decode("utf-8", "replace"): value for key, value in read_sstable(memoryview(path.read_bytes()))}
    if "" not in table:
        raise ConvertError("the table has no header; it is no checkpoint's")
    header = Message(table.pop(""))
    if isinstance(header.fields.get(1, [0])[-1], int):  # the number of files; in version 1 a message
        return _read_bundle(path, header, {key: Message(value) for key, value in table.items()})
    return _read_slices(Message(header.bytes(1)), table.values())


def shards_of(index: Path) -> list[Path]:
    """Return the files of data that are there beside PREFIX.index, in their order."""
    prefix = f"{index.name.removesuffix(INDEX)}.data-"
    return sorted(file for file in index.parent.iterdir() if file.name.startswith(prefix))


def _claim(name: str, kind: int, shape: Message, budget: Budget) -> tuple[_Kind, list[int], int]:
    """Return how a tensor is stored, its shape and its bytes, once they are known to be possible."""
    if kind not in _KINDS:
        raise ConvertError(f"{name[:80]} has the unknown data type {kind}")
    sides = [side.number(1) for side in shape.messages(2)]
    if any(side > MAX_BYTES for side in sides) or math.prod(sides) > MAX_BYTES:
        raise ConvertError(f"{name[:80]} claims the shape {sides[:8]}")
    return _KINDS[kind], sides, budget.take(name, sides, _KINDS[kind].dtype)


def _shaped(values: np.ndarray, kind: int, shape: list[int]) -> np.ndarray:
    return (widen_bfloat16(values) if kind == _BFLOAT16 else values).reshape(shape)


def _refuse_partitioned(names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(name[:80] for name in names[:12])
        raise ConvertError(f"partitioned variables are not read, save them whole in TensorFlow: {shown}")


# --- version 2 --------------------------------------------------------------------------------------------------------


def _read_bundle(path: Path, header: Message, entries: Mapping[str, Message]) -> dict[str, np.ndarray]:
    shards = _shards(path, header)
    _refuse_partitioned([name for name, entry in entries.items() if 7 in entry])
    full_names = _full_names(shards, entries[_GRAPH]) if _GRAPH in entries else {}
    held = sum(shard.stat().st_size for shard in shards)
    budget, tensors = Budget(), {}
    for key, entry in entries.items():
        kind = entry.number(1)
        if kind != _STRING:
            name = full_names.get(key, key)
            stored, shape, size = _claim(name, kind, Message(entry.bytes(2)), budget)
            if entry.number(5) != size or budget.bytes > held:
                raise ConvertError(f"{name[:80]} claims {size:,} bytes and has {entry.number(5):,}, or shares them")
            data = _stored_bytes(name, shards, entry)
            _compare(name, entry, data)
            tensors[name] = _shaped(np.frombuffer(data, stored.dtype), kind, shape)
    return tensors


def _shards(path: Path, header: Message) -> list[Path]:
    count = header.number(1)
    if path.suffix != INDEX or not 0 < count <= _MAX_SHARDS or header.number(2):
        raise ConvertError(f"an index is expected that is called PREFIX{INDEX} and has little-endian data")
    shards = [path.with_name(f"{path.stem}.data-{n:05d}-of-{count:05d}") for n in range(count)]
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise ConvertError(f"the checkpoint is not whole; absent beside its index: {', '.join(absent[:12])}")
    return shards


def _stored_bytes(name: str, shards: list[Path], entry: Message) -> bytes:
    number, start, size = entry.number(3), entry.number(4), entry.number(5)
    if number >= len(shards) or start + size > shards[number].stat().st_size:
        raise ConvertError(f"{name[:80]} lies outside of the checkpoint's files; they are cut or of another checkpoint")
    with shards[number].open("rb") as file:
        file.seek(start)
        return file.read(size)


def _compare(name: str, entry: Message, data: bytes) -> None:
    if mask(crc32c(data)) != entry.number(6):
        raise ConvertError(f"{name[:80]} does not have its checksum; the file is damaged")


def _full_names(shards: list[Path], entry: Message) -> dict[str, str]:
    """Return key in the table -> full name of the variable, from TensorFlow 2's graph of objects.

    The graph is a text: its length, the length's checksum, and itself.
    """
    data = _stored_bytes(_GRAPH, shards, entry)
    length, place = varint(memoryview(data), 0)
    _compare(_GRAPH, entry, struct.pack("<I", length & 0xFFFFFFFF) + data[place:])
    names = {}
    for node in Message(memoryview(data)[place + 4 :]).messages(1):
        for attribute in node.messages(2):
            names[attribute.text(3)] = attribute.text(2)
    counts = Counter(names.values())
    return {key: name for key, name in names.items() if name and counts[name] == 1}


# --- version 1 --------------------------------------------------------------------------------------------------------


def _read_slices(meta: Message, values: Iterable[memoryview]) -> dict[str, np.ndarray]:
    slices = {piece.text(1): Message(piece.bytes(3)) for value in values for piece in Message(value).messages(2)}
    variables = list(meta.messages(1))
    _refuse_partitioned([variable.text(1) for variable in variables if not _is_whole(variable)])
    budget, tensors = Budget(), {}
    for variable in variables:
        name, kind = variable.text(1), variable.number(3)
        if kind != _STRING:
            stored, shape, size = _claim(name, kind, Message(variable.bytes(2)), budget)
            if name not in slices:
                raise ConvertError(f"{name[:80]} is announced and not there")
            found = _numbers(slices[name].all_bytes(stored.field), stored)
            if found.nbytes != size:
                raise ConvertError(f"{name[:80]} claims {size:,} bytes and has {found.nbytes:,}")
            tensors[name] = _shaped(found, kind, shape)
    return tensors


def _is_whole(variable: Message) -> bool:
    """Tell whether a variable has one slice, which leaves out nothing."""
    slices = list(variable.messages(4))
    sides = [side.number(1) for side in Message(variable.bytes(2)).messages(2)]
    return len(slices) == 1 and all(
        extent.number(1) == 0 and (2 not in extent or extent.number(2) == side)
        for extent, side in zip(slices[0].messages(1), sides, strict=False)
    )


def _numbers(chunks: list[memoryview], stored: _Kind) -> np.ndarray:
    data = b"".join(chunks)
    if stored.field in (5, 6):  # float_val, double_val
        return np.frombuffer(data, stored.dtype)
    numbers = _varints(np.frombuffer(data, np.uint8))
    if stored.field == 13:  # half_val: bits
        return numbers.astype("<u2").view(stored.dtype)
    return numbers.astype(stored.dtype)


def _varints(data: np.ndarray) -> np.ndarray:
    """Return uint64 numbers of variable length, seven bits a byte."""
    ends = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], ends + 1])[: len(ends)]
    places = np.arange(len(data)) - np.repeat(starts, ends - starts + 1) if len(ends) else np.zeros(0)
    if len(data) != (ends[-1] + 1 if len(ends) else 0) or np.any(places > 9):
        raise ConvertError("a damaged message: a number without end")
    parts = (data & 127).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, starts) if len(ends) else parts
