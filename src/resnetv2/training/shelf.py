"""Arrays by key in the user's cache, in files that are whole or not there: rows of one shape, memory-mapped.

A segment is two ``.npy`` files: the rows, and then the keys with each row's CRC-32, without which nobody looks at the
rows. Whoever writes holds the folder's lock (``cache.locked``); reading needs none.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnetv2.errors import Error
from resnetv2.files import replace_file

_ENTRY = np.dtype([("key", "u8", 2), ("crc", "u4")])
_KEYS, _ROWS = ".keys.npy", ".rows.npy"


class Segment(NamedTuple):
    """One file of rows, mapped, and what is in it."""

    keys: Path
    entries: np.ndarray  # _ENTRY (n,)
    rows: np.ndarray  # (n, …)


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
                raise Error(f"{segment.keys} is damaged: delete it and run again; its rows are then made anew")
        return out


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
        entries = np.empty(len(keys), _ENTRY)
        entries["key"] = keys
        entries["crc"] = [zlib.crc32(np.ascontiguousarray(row).data) for row in rows]
        numbers = [int(path.name.partition(".")[0]) for path in self.folder.glob("[0-9]*.npy")]
        stem = f"{max(numbers, default=-1) + 1:06d}"
        for ending, array in ((_ROWS, rows), (_KEYS, entries)):
            with replace_file(self.folder / (stem + ending)) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)

    def clear(self) -> None:
        """Remove what a killed writer left; for who holds the lock."""
        for left in (*self.folder.glob(".*.tmp"), *self.folder.glob(f"*{_ROWS}")):
            if not left.with_name(left.name.replace(_ROWS, _KEYS)).exists() or left.suffix == ".tmp":
                with contextlib.suppress(OSError):
                    left.unlink()

    def _read(self) -> list[Segment]:
        segments: list[Segment] = []
        for path in sorted(self.folder.glob(f"*{_KEYS}")):
            try:
                entries = np.load(path)
                rows = np.load(path.with_name(path.name.replace(_KEYS, _ROWS)), mmap_mode="r")
            except (OSError, ValueError, EOFError):  # gone meanwhile, or damaged: it is made again
                continue
            fits = entries.dtype == _ENTRY and entries.shape == rows.shape[:1] and rows.dtype == self.dtype
            if fits and len(rows) and (not segments or segments[0].rows.shape[1:] == rows.shape[1:]):
                segments.append(Segment(path, entries, rows))
        return segments


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
