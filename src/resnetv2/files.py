"""Writing files so that a reader never sees half of one, whatever kills the writer."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnetv2.errors import Error


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, it takes the name ``path``, durably.

    The bytes are on the disk before the name is (fsync, rename, fsync of the directory). When the block raises, the
    temporary file goes and ``path`` is as it was.

    Raises:
        Error: the file system refused, for instance because it is full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        rename_durably(temporary, path)
    except OSError as error:
        raise Error(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def rename_durably(source: Path, path: Path) -> None:
    """Give the file ``source`` the name ``path`` in the same folder: its bytes are on the disk before the name is.

    Raises:
        OSError: the file system refused.
    """
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(path)
    _sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with replace_file(path) as temporary:  # a path that is no UTF-8 holds surrogates: "\\udce9" is also their JSON
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows has no handle for this; the rename is already ordered there
        return
    with contextlib.suppress(OSError):  # some network file systems refuse; the file itself is on the disk already
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
