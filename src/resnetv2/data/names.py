"""A million names without a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload


def is_text(name: str) -> bool:
    """Return whether a name is UTF-8; the bytes of one that is not arrive as lone surrogates."""
    return name.isascii() or name.encode(errors="replace").decode() == name


class Names(Sequence[str]):
    """Texts in one buffer: each costs its own bytes and eight more, a tuple of them about seventy.

    Names of files that are no UTF-8 come out as they went in (surrogateescape).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        buffer, self._ends = bytearray(), array("q", [0])
        for text in texts:
            buffer += text.encode(errors="surrogateescape")
            self._ends.append(len(buffer))
        self._buffer = bytes(buffer)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        """Yield them in order, in a third of the time that asking for each takes."""
        start = 0
        for end in islice(self._ends, 1, None):
            yield self._buffer[start:end].decode(errors="surrogateescape")
            start = end

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        i = range(len(self))[place]
        return self._buffer[self._ends[i] : self._ends[i + 1]].decode(errors="surrogateescape")
