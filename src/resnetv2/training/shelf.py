"""Arrays by key in the user's cache, in files that are whole or not there: rows of one shape, memory-mapped.

A segment is two ``.npy`` files: the rows, and then the keys with each row's CRC-32, without which nobody looks at the
rows. A last entry of the keys holds the CRC-32 of all others and of the rows' type and shape, so that a file of either
kind that was cut or changed is known for it. Whoever writes holds the folder's lock (``cache.locked``); reading needs
none.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from resnetv2.errors import Error
from resnetv2.files import replace_file

_ENTRY = np.dtype([("key", "u8", 2), ("crc", "u4")])
_KEYS, _ROWS = ".keys.npy", ".rows.npy"
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, TypeError, SyntaxError, TokenError)  # NumPy's, of any bytes
_CHECKED_BYTES = 2**26  # of rows that are read at once


class Segment(NamedTuple):
    """One file of rows, mapped, and what is in it."""

    keys: Path
    entries: np.ndarray  # _ENTRY (n,)
    rows: np.ndarray  # (n, …)

    def holds(self, places: np.ndarray) -> bool:
        """Return whether rows, int (n,), are what was written."""
        step = max(1, _CHECKED_BYTES // max(1, self.rows[0].nbytes))
        parts = (places[low : low + step] for low in range(0, len(places), step))
        return all(_crcs(self.rows[part]) == self.entries["crc"][part].tolist() for part in parts)


@dataclass(frozen=True, eq=False)
class Rows:
    """Where n rows are: ``segments[files[i]].rows[places[i]]``; file -1 where there is none."""

    segments: tuple[Segment, ...]
    files: np.ndarray
    places: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which rows there are, bool (n,)."""
        return self.files >= 0

    def take(self, which: np.ndarray) -> np.ndarray:
        """Read some rows, in the order asked for.

        Raises:
            Error: a file no longer holds what was written.
        """
        files, places = self.files[which], self.places[which]
        first = self.segments[0].rows
        out = np.empty((len(which), *first.shape[1:]), first.dtype)
        for file in np.unique(files):
            segment, here = self.segments[file], np.flatnonzero(files == file)
            here = here[np.argsort(places[here], kind="stable")]  # as they lie on the disk
            out[here] = segment.rows[places[here]]
            crc = segment.entries["crc"][places[here]].tolist()
            if any(zlib.crc32(out[i].data) != expected for i, expected in zip(here, crc, strict=True)):
                raise Error(f"the rows of {segment.keys} are damaged: run again; they are then made anew")
        return out

    def damaged(self) -> list[Path]:
        """Return the key files of segments of which a row is no longer what was written; all rows are read."""
        used = np.unique(self.files[self.known]).tolist()
        return [
            self.segments[file].keys
            for file in used
            if not self.segments[file].holds(np.unique(self.places[self.files == file]))
        ]


class Shelf:
    """The segments of one folder.

    Args:
        folder: of this shelf alone.
        dtype: of the rows.
    """

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype

    def find(self, keys: np.ndarray) -> Rows:
        """Return where the rows of keys, uint64 (n, 2), are; segments that are used count as new from now on."""
        segments = self._read()
        files = np.full(len(keys), -1, np.int32)
        places = np.zeros(len(keys), np.int64)
        if not segments:
            return Rows((), files, places)
        every = np.concatenate([segment.entries["key"] for segment in segments])
        ends = np.cumsum([len(segment.entries) for segment in segments])
        order = np.argsort(every[:, 0], kind="stable")
        at = order[np.searchsorted(every[:, 0], keys[:, 0], sorter=order).clip(max=len(every) - 1)]
        known = (every[at] == keys).all(axis=1)
        files[known] = np.searchsorted(ends, at[known], side="right")
        places[known] = at[known] - np.concatenate([[0], ends])[files[known]]
        for file in np.unique(files[known]):
            with contextlib.suppress(OSError):
                os.utime(segments[file].keys)
        return Rows(tuple(segments), files, places)

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Write rows (n, …) under keys uint64 (n, 2), which are new.

        Raises:
            Error: the file system refused; what was there is as it was.
        """
        entries = np.zeros(len(keys) + 1, _ENTRY)
        entries["key"][:-1] = keys
        entries["crc"][:-1] = _crcs(rows)
        entries["crc"][-1] = _seal(entries[:-1], rows)
        numbers = [int(path.name.partition(".")[0]) for path in self.folder.glob("[0-9]*.npy")]
        stem = f"{max(numbers, default=-1) + 1:06d}"
        for ending, array in ((_ROWS, rows), (_KEYS, entries)):
            with replace_file(self.folder / (stem + ending)) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)

    def clear(self, damaged: Sequence[Path] = ()) -> int:
        """Remove what a killed writer left, and damaged segments; for who holds the lock.

        Args:
            damaged: key files of segments whose rows are; those that cannot be read are found here.

        Returns:
            How many segments were damaged.
        """
        whole = {segment.keys for segment in self._read()} - set(damaged)
        spoilt = [path for path in self.folder.glob(f"*{_KEYS}") if path not in whole]
        for path in spoilt:
            with contextlib.suppress(OSError):  # Windows keeps what another process has mapped
                path.unlink()
        for left in (*self.folder.glob(".*.tmp"), *self.folder.glob(f"*{_ROWS}")):
            if not left.with_name(left.name.replace(_ROWS, _KEYS)).exists() or left.suffix == ".tmp":
                with contextlib.suppress(OSError):
                    left.unlink()
        return len(spoilt)

    def _read(self) -> list[Segment]:
        segments: list[Segment] = []
        for path in sorted(self.folder.glob(f"*{_KEYS}")):
            try:
                entries = np.load(path)
                rows = np.load(path.with_name(path.name.replace(_KEYS, _ROWS)), mmap_mode="r")
            except _UNREADABLE:  # gone meanwhile, or damaged: it is made again
                continue
            fits = entries.dtype == _ENTRY and entries.shape == (len(rows) + 1,) and rows.dtype == self.dtype
            if fits and len(rows) and entries["crc"][-1] == _seal(entries[:-1], rows):
                segments.append(Segment(path, entries[:-1], rows))
        return segments


def _crcs(rows: np.ndarray) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(row).data) for row in rows]


def _seal(entries: np.ndarray, rows: np.ndarray) -> int:
    """Return the CRC-32 of entries, _ENTRY (n,), and of how their rows lie."""
    return zlib.crc32(f"{rows.dtype.str} {rows.shape}".encode() + entries.tobytes())


def make_room(root: Path, need: int, budget: int, used: Rows) -> None:
    """Remove the segments that were not used for longest from all shelves of ``root``, until ``need`` bytes are left.

    Args:
        root: folder of shelves.
        need: bytes to be written.
        budget: bytes that all shelves may take; those of ``used`` stay even so.
        used: rows that are needed now.
    """
    kept = {used.segments[file].keys for file in np.unique(used.files[used.known])}
    sizes: dict[Path, int] = {}
    ages: dict[Path, float] = {}
    for keys in root.glob(f"*/*{_KEYS}"):
        with contextlib.suppress(OSError):
            rows = keys.with_name(keys.name.replace(_KEYS, _ROWS))
            sizes[keys], ages[keys] = keys.stat().st_size + rows.stat().st_size, keys.stat().st_mtime
    over = sum(sizes.values()) + need - budget
    for keys in sorted(ages, key=lambda path: ages[path]):
        if over <= 0:
            break
        if keys not in kept:
            with contextlib.suppress(OSError):  # Windows keeps what another process has mapped
                keys.unlink()
                keys.with_name(keys.name.replace(_KEYS, _ROWS)).unlink()
                over -= sizes[keys]
