"""Where a checkpoint begins: the one file that is meant by a prefix, a folder or one of several files."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from resnetv2.conversion.formats.preset import preset_files
from resnetv2.conversion.formats.tensorflow import INDEX, shards_of
from resnetv2.errors import ConvertError

_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
_MAX_FILES = 10_000  # looked at in a folder


def locate(path: Path, is_checkpoint: Callable[[Path], bool]) -> Path:
    """Return the file that is, or begins, the checkpoint meant by ``path``.

    Args:
        path: that file itself; the prefix or a file of data of a TensorFlow checkpoint, whose index is returned; or a
            folder with exactly one checkpoint in or below it, such as a SavedModel. KerasHub's preset is its folder.
        is_checkpoint: tells a file in a known format, for folders.

    Raises:
        ConvertError: there is none, or more than one.
    """
    if path.is_dir():
        if preset_files(path):
            return path
        try:
            return only_checkpoint(path, is_checkpoint)
        except ConvertError as error:
            raise ConvertError(f"{path} is a folder; {error}") from error
    if not path.exists() or _SHARD.search(path.name):
        index = path.with_name(_SHARD.sub("", path.name) + INDEX)
        if index.is_file():
            return index
    if not path.is_file():
        raise ConvertError(f"no such file: {path}")
    return path


def files_of(file: Path) -> list[Path]:
    """Return all files of a located checkpoint: those of a preset's folder, or itself and the data beside an index."""
    if file.is_dir():
        return preset_files(file)
    return [file, *(shards_of(file) if file.suffix == INDEX else ())]


def only_checkpoint(folder: Path, is_checkpoint: Callable[[Path], bool]) -> Path:
    """Return the one checkpoint in a folder or below it.

    Raises:
        ConvertError: there is none, there are more than one, which it names, or there are too many files to look at.
    """
    paths = list(islice(folder.rglob("*"), _MAX_FILES + 1))
    if len(paths) > _MAX_FILES:
        raise ConvertError(f"more than {_MAX_FILES:,} files are in it; give the checkpoint itself")
    found = [path for path in sorted(paths) if not _SHARD.search(path.name) and path.is_file() and is_checkpoint(path)]
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:12])
        held = f"{len(found)} checkpoints, give one of them: {names}" if found else "no checkpoint in a known format"
        raise ConvertError(f"it holds {held}")
    return found[0]
