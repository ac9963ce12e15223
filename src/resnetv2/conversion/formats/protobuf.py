"""Protobuf's wire format: the fields of a message by their numbers, without knowing its schema."""

from __future__ import annotations

from collections.abc import Iterator

from resnetv2.errors import ConvertError

Value = int | memoryview


class Message:
    """The fields of one message; what is absent reads as 0, as no bytes, as no messages.

    Raises:
        ConvertError: the bytes are no message, or a field is a number where bytes are expected, or the reverse.
    """

    def __init__(self, data: memoryview) -> None:
        self.fields: dict[int, list[Value]] = {}
        for field, value in _fields(data):
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
        numbers = []
        for value in self.fields.get(field, []):
            if isinstance(value, int):
                numbers.append(value)
            else:
                place = 0
                while place < len(value):
                    number, place = varint(value, place)
                    numbers.append(number)
        return numbers


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
