"""Protobuf's wire format: the fields of a message by their numbers, without knowing its schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from resnetv2.errors import ConvertError

Value = int | memoryview
_MAX_FIELDS = 1_000_000  # of one message: twenty times the tensors that a file may hold


class Message:
    """The fields of one message; what is absent reads as 0, as no bytes, as no messages.

    Raises:
        ConvertError: the bytes are no message, one of too many fields, or a field is a number where bytes are expected,
            or the reverse.
    """

    def __init__(self, data: memoryview) -> None:
        self.fields: dict[int, list[Value]] = {}
        for count, (field, value) in enumerate(_fields(data)):
            if count == _MAX_FIELDS:
                raise ConvertError(f"a message has more than {_MAX_FIELDS:,} fields")
            self.fields.setdefault(field, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self.fields

    def number(self, field: int) -> int:
        """Return a single number as it is stored, without a sign."""
        value = self.fields.get(field, [0])[-1]
        if not isinstance(value, int) and len(value) not in (4, 8):
            raise ConvertError(f"a damaged message: field {field} is bytes instead of a number")
        return value if isinstance(value, int) else int.from_bytes(value, "little")

    def bytes(self, field: int) -> memoryview:
        """Return the bytes of a field that is there once."""
        return (self.all_bytes(field) or [memoryview(b"")])[-1]

    def text(self, field: int) -> str:
        """Return a text."""
        return bytes(self.bytes(field)).decode("utf-8")

    def all_bytes(self, field: int) -> list[memoryview]:
        """Return the bytes of a repeated field."""
        values = [value for value in self.fields.get(field, []) if isinstance(value, memoryview)]
        if len(values) != len(self.fields.get(field, [])):
            raise ConvertError(f"a damaged message: field {field} is a number instead of bytes")
        return values

    def messages(self, field: int) -> Iterator[Message]:
        """Yield the messages of a repeated field."""
        return map(Message, self.all_bytes(field))

    def numbers(self, field: int) -> list[int]:
        """Return repeated numbers, packed or not."""
        numbers: list[int] = []
        for value in self.fields.get(field, []):
            numbers += [value] if isinstance(value, int) else _varints(np.frombuffer(value, np.uint8)).tolist()
        return numbers


def unpack(chunks: Sequence[memoryview], dtype: np.dtype[Any], *, fixed: bool) -> np.ndarray:
    """Return packed numbers of one kind.

    Args:
        chunks: the bytes of a repeated field.
        dtype: the numbers returned.
        fixed: each has the bytes of ``dtype``; else a variable length, and float16 is the number that its bits are.

    Raises:
        ConvertError: the data end within a number, or it is longer than 64 bits can be.
    """
    data = b"".join(chunks)
    if fixed:
        return np.frombuffer(data, dtype)
    numbers = _varints(np.frombuffer(data, np.uint8))
    return numbers.astype("<u2").view(dtype) if dtype == np.float16 else numbers.astype(dtype)


def _varints(data: np.ndarray) -> np.ndarray:
    """Return uint64 numbers of variable length, seven bits a byte."""
    ends = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], ends + 1])[: len(ends)]
    places = np.arange(len(data)) - np.repeat(starts, ends - starts + 1) if len(ends) else np.zeros(0)
    if len(data) != (ends[-1] + 1 if len(ends) else 0) or np.any(places > 9):
        raise ConvertError("a damaged message: a number without end")
    parts = (data & 127).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, starts) if len(ends) else parts


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the number of variable length at ``place``, seven bits a byte, and the place after it.

    Raises:
        ConvertError: the data ends within it, or it is longer than 64 bits can be.
    """
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


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield (field number, number or bytes)."""
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            length, place = varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ConvertError(f"a damaged message: wire type {kind}")
        if length > len(data) - place:
            raise ConvertError("a damaged message: it ends before its data")
        yield key >> 3, data[place : place + length]
        place += length


def encode(field: int, value: int | bytes, wire: int | None = None) -> bytes:
    """Return one field of a message: a number of variable length, or bytes after their length.

    Args:
        field: its number in the schema.
        value: a whole number of at least -2**63, or the bytes of a text, of packed numbers or of another message.
        wire: 1 or 5 for bytes that are a number of 8 or 4 bytes, which have no length before them.
    """
    if isinstance(value, int):
        return _varint(field << 3) + _varint(value & (1 << 64) - 1)
    if wire is not None:
        return _varint(field << 3 | wire) + value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
