"""LevelDB's sorted table, in which TensorFlow keeps its checkpoints: sorted keys with values, in checksummed blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from resnetv2.conversion.formats.crc32c import crc32c, mask
from resnetv2.conversion.formats.protobuf import varint
from resnetv2.errors import ConvertError

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # the last bytes of the file
FOOTER = 48
_MAX_KEY = 4096


def read_sstable(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the keys and values of a table, in the order of the keys; values are views into ``data``.

    Raises:
        ConvertError: damaged, or compressed.
    """
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise ConvertError("no TensorFlow checkpoint: its last bytes are others")
    _, place = _handle(data[-FOOTER:], 0)  # of a table of properties that TensorFlow leaves empty
    index, _ = _handle(data[-FOOTER:], place)
    end, last = 0, None
    for _, value in _entries(_block(data, *index)):
        (start, size), _ = _handle(value, 0)
        if start < end:  # blocks stand one after another; each is read once
            raise ConvertError("a damaged table: blocks overlap")
        end = start + size
        for key, content in _entries(_block(data, start, size)):
            if last is not None and key <= last:
                raise ConvertError("a damaged table: keys are not sorted")
            last = key
            yield key, content


def _handle(data: memoryview, place: int) -> tuple[tuple[int, int], int]:
    start, place = varint(data, place)
    size, place = varint(data, place)
    return (start, size), place


def _block(data: memoryview, start: int, size: int) -> memoryview:
    if start + size + 5 > len(data) - FOOTER:
        raise ConvertError("a damaged table: a block ends after the file")
    compression = data[start + size]
    (checksum,) = struct.unpack_from("<I", data, start + size + 1)
    if mask(crc32c(data[start : start + size + 1])) != checksum:
        raise ConvertError("a damaged table: a block does not have its checksum")
    if compression:
        raise ConvertError(
            "the table is compressed, which TensorFlow does not do for checkpoints; only plain ones are read"
        )
    return data[start : start + size]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values; a key stores only what differs from the one before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)  # the places where whole keys stand follow
    if len(block) < 4 or end < 0:
        raise ConvertError("a damaged table: a block without end")
    place, key = 0, b""
    while place < end:
        shared, place = varint(block, place)
        fresh, place = varint(block, place)
        size, place = varint(block, place)
        if shared > len(key) or shared + fresh > _MAX_KEY or place + fresh + size > end:
            raise ConvertError("a damaged table: an entry that is longer than its block or its key")
        key = key[:shared] + block[place : place + fresh]
        place += fresh + size
        yield key, block[place - size : place]
