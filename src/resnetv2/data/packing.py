"""Pack pictures into shards: few large files instead of many small ones."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from resnetv2.console import Counter
from resnetv2.data.index import Index, read_index, refuse_inside
from resnetv2.data.shards import HEADS, SHARD_LIST, read_shards, shard_name
from resnetv2.errors import ConfigError, DataError
from resnetv2.files import new_folder, replace_file
from resnetv2.preprocess import read_picture

_MEGABYTE = 10**6
_BLOCK = tarfile.BLOCKSIZE
_ROOM = 4 * _BLOCK  # a member's headers at most, but for names of more than a thousand bytes
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class PackResult:
    """What was packed: the folder, its shards, its pictures and their bytes."""

    out: Path
    shards: int
    pictures: int
    size: int  # bytes of the picture files


def pack(
    data: str | Path,
    out: str | Path,
    *,
    max_size: int = 1000,
    group_by: str | None = None,
    progress: Counter | None = None,
) -> PackResult:
    """Pack labelled pictures into tar files that every command reads in place of the folder.

    The bytes of each picture file go in untouched, with label, split, group and SHA-256 in a list beside them; order
    and splits are those of ``data``, and splits that it does not say are assigned by training, as for the folder, so
    that either gives the same bits. ``out`` appears when all of it is on the disk: what is there is whole, and after an
    interruption the same command starts afresh.

    Args:
        data: a folder ``root/{train,val,test}/class/*`` or ``root/class/*``, or a manifest (CSV or Parquet).
        out: a new folder.
        max_size: megabytes (10^6 bytes) at which the next shard begins; a larger picture has one to itself.
        group_by: what must stay in one split, as ``read_index`` takes it; the list in ``out`` keeps it.
        progress: called with the pictures done and the total.

    Raises:
        ConfigError: max_size below 1, or ``out`` lies inside ``data``.
        DataError: pictures that cannot be used, or two that unpack to one name.
        Error: ``out`` is not empty, or the disk is full.
    """
    data, out = Path(data), Path(out)
    if not isinstance(max_size, int) or max_size < 1:
        raise ConfigError(f"max_size must be a whole number of megabytes from 1 on, got {max_size!r}")
    refuse_inside(out, data)
    index = read_index(data, group_by)
    names = _member_names(index.paths)
    with new_folder(out) as folder:
        with (
            replace_file(folder / SHARD_LIST) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(HEADS[index.task])
            for done, row in enumerate(_write_shards(index, names, folder, max_size * _MEGABYTE), 1):
                rows.writerow(row)
                if progress is not None:
                    progress(done, len(names))
        _, shards, _ = read_shards(folder)
    return PackResult(out, int(shards.shard.max()) + 1, len(names), int(shards.size.sum()))


def _write_shards(index: Index, names: Sequence[str], folder: Path, most: int) -> Iterator[tuple[object, ...]]:
    """Write the pictures of an index in order; yield a row of the list for each."""
    number = start = 0
    same = index.given is not None and all(map(str.__eq__, names, index.paths))  # else a hash would change with them
    splits = index.given if same and index.given is not None else index.splits
    while start < len(names):
        shard = shard_name(number)
        with (
            replace_file(folder / shard) as temporary,
            temporary.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for i in range(start, len(names)):
                data = _read(index, i)
                if file.tell() and file.tell() + len(data) + _ROOM > most:
                    break
                info = tarfile.TarInfo(names[i])
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                offset = file.tell() - -(-len(data) // _BLOCK) * _BLOCK  # the tar fills up its last block
                group = "" if index.groups is None else index.groups[i]
                digest = hashlib.sha256(data).hexdigest()
                yield names[i], index.label(i), splits[i], shard, offset, len(data), digest, group
                start = i + 1
        number += 1


def _read(index: Index, i: int) -> bytes:
    place = index.place(i)
    try:
        return read_picture(place)
    except DataError as error:
        raise DataError(f"cannot read {place}: {error}") from error


def _member_names(paths: Sequence[str]) -> list[str]:
    """Return names under which a tar may hold the pictures: below the place where it is unpacked, and all different."""
    first: dict[str, str] = {}
    for path in paths:
        pure = PureWindowsPath(path) if _DRIVE.match(path) else PurePosixPath(path)
        name = "/".join(part for part in pure.parts if part not in (pure.anchor, ".."))
        if first.setdefault(name, path) != path:
            raise DataError(f"{first[name]} and {path} would both be unpacked as {name}; move one of them")
    return list(first)
