"""A place in bytes that cannot be read past their end."""

from __future__ import annotations

import struct

from resnetv2.errors import ConvertError


class Cursor:
    """Reads ``data`` from its start on, without copying it."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.place = 0

    def take(self, length: int) -> memoryview:
        """Return the next ``length`` bytes.

        Raises:
            ConvertError: there are not as many.
        """
        if not 0 <= length <= len(self.data) - self.place:
            raise ConvertError(f"the file ends before {length:,} more bytes")
        self.place += length
        return self.data[self.place - length : self.place]

    def number(self, form: str) -> int:
        """Return the next whole number, laid out as ``struct`` says."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])
