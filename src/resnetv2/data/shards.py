"""Packed data: pictures in tar files, read one by one from where a list says they are.

A packed folder holds ``shard-00000.tar`` … and ``shards.csv``, a manifest ``image_path,label,split`` (or ``labels`` or
``target``, by the task) with five columns more: shard, offset and size in bytes of the picture file inside it, its
SHA-256, and the name of its group. Any tar unpacks the shards, and the list is then the manifest of what comes out.
"""

from __future__ import annotations

import csv
import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetv2 import tasks
from resnetv2.data.manifest import NUMBER, SHA256, Row, shorten
from resnetv2.data.splits import SPLITS
from resnetv2.data.targets import misread
from resnetv2.errors import DataError

SHARD_LIST = "shards.csv"
COLUMNS = ("image_path", "label", "split", "shard", "offset", "size", "sha256", "group")
_SHARD = re.compile(r"shard-[0-9]{5,9}[.]tar")  # so that a list can name nothing outside its folder

HEADS = {task: (COLUMNS[0], name, *COLUMNS[2:]) for task, name in tasks.COLUMNS.items()}  # first lines, by the task


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.tar"


@dataclass(frozen=True)
class Member:
    """A picture file inside a shard; it is read as a path is."""

    shard: Path
    name: str
    offset: int  # bytes
    size: int  # bytes
    sha256: bytes

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def read_bytes(self) -> bytes:
        """Return the file, checked against its hash.

        Raises:
            DataError: the shard no longer holds what was packed.
            OSError: the shard cannot be read.
        """
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if hashlib.sha256(data).digest() != self.sha256:
            raise DataError("the shard no longer holds the bytes that were packed; copy or pack it again")
        return data


@dataclass(frozen=True)
class Shards:
    """Where n pictures are: arrays, because a million objects would fill the memory."""

    folder: Path
    shard: np.ndarray  # int32 (n,)
    offset: np.ndarray  # int64 (n,), bytes
    size: np.ndarray  # int64 (n,), bytes
    sha256: np.ndarray  # uint8 (n, 32)

    def member(self, i: int, name: str) -> Member:
        """Return picture number ``i``, which is called ``name``."""
        path = self.folder / shard_name(self.shard[i])
        return Member(path, name, int(self.offset[i]), int(self.size[i]), self.sha256[i].tobytes())

    def take(self, order: Sequence[int]) -> Shards:
        """Return those pictures, in that order."""
        return Shards(self.folder, self.shard[order], self.offset[order], self.size[order], self.sha256[order])


def read_shards(folder: Path) -> tuple[list[Row], Shards, str]:
    """Read the list of a packed folder: what it says of every picture, where its bytes are, and the task.

    Raises:
        DataError: a damaged list, or shards that are absent or shorter than the list says; all problems at once.
    """
    rows: list[Row] = []
    problems: list[str] = []
    numbers, hashes, ends = array("q"), bytearray(), dict[str, int]()
    path = folder / SHARD_LIST
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file, strict=True)
            head = tuple(next(reader, ()))
            task = next((task for task, names in HEADS.items() if names == head), None)
            if task is None:
                raise DataError(f"{path} is no list of packed pictures: its first line must be {','.join(COLUMNS)}")
            for cells in reader:
                if not _is_sound(task, cells):
                    problems.append(f"line {reader.line_num}: damaged")
                    continue
                name, label, split, shard, offset, size, sha256, group = cells
                rows.append(Row(name, label, split, group))
                numbers.extend((int(shard[6:-4]), int(offset), int(size)))
                hashes += bytes.fromhex(sha256)
                ends[shard] = max(ends.get(shard, 0), int(offset) + int(size))
    except (csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    problems += [problem for shard, end in ends.items() for problem in _shorter(folder / shard, end)]
    if len({row.path for row in rows}) < len(rows):
        problems.append("a picture is listed twice")
    if problems:
        shown = "\n  ".join(shorten(problems))
        raise DataError(f"{folder} is not the folder that was packed; copy or pack it again:\n  {shown}")
    shard_, offset_, size_ = np.array(numbers, np.int64).reshape(-1, 3).T
    sha256_ = np.frombuffer(bytes(hashes), np.uint8).reshape(-1, 32)
    return rows, Shards(folder, shard_.astype(np.int32), offset_.copy(), size_.copy(), sha256_), task


def _is_sound(task: str, cells: Sequence[str]) -> bool:
    if len(cells) != len(COLUMNS):
        return False
    name, label, split, shard, offset, size, sha256, _ = cells
    forms = (_SHARD, shard), (NUMBER, offset), (NUMBER, size), (SHA256, sha256)
    return (
        bool(name)
        and not misread(task, label)
        and split in (*SPLITS, "")
        and all(form.fullmatch(text) for form, text in forms)
        and shard == shard_name(int(shard[6:-4]))
    )


def _shorter(path: Path, end: int) -> Iterator[str]:
    try:
        found = path.stat().st_size
    except OSError as error:
        yield f"{path.name}: {error.strerror}"
        return
    if found < end:
        yield f"{path.name} has {found:,} bytes, but its pictures end at {end:,}"
