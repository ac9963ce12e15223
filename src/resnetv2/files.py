"""Writing files so that a reader never sees half of one, whatever kills the writer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnetv2.errors import Error


@contextlib.contextmanager
def replace_file(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, it takes the name ``path``, durably.

    The bytes are on the disk before the name is (fsync, rename, fsync of the directory). When the block raises, the
    temporary file goes and ``path`` is as it was.

    Raises:
        Error: a ``new`` file is there meanwhile, or the file system refused, for instance because it is full or
            read-only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the person gives new files; safetensors makes them for the owner alone
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)
        rename_durably(temporary, path, new=new)
    except OSError as error:
        raise Error(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; when the block ends well, it takes the name ``path``, durably.

    A folder that a killed writer left is cleared away first. When the block raises, the temporary folder goes.

    Raises:
        Error: ``path`` exists and is no empty folder, another process is writing it, or the file system refused.
    """
    path = Path(os.path.realpath(path))  # "." has no name
    temporary = path.parent / f".{path.name}.resnetv2.tmp"
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise Error(f"{path} exists and is not an empty folder: choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.resnetv2.lock")
        with hold(lock, Error(f"another process is writing {path}")):
            try:
                if temporary.exists():
                    shutil.rmtree(temporary)
                temporary.mkdir()
                yield temporary
                _sync_directory(temporary)
                if path.exists():
                    path.rmdir()
                temporary.rename(path)
                _sync_directory(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise Error(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def hold(path: Path, refusal: Error) -> Iterator[None]:
    """Hold the lock file ``path`` within the block, and remove it after that.

    The lock is the system's: that of a killed process is free, though its file is left.

    Args:
        path: in a folder that is there.
        refusal: what is raised where another process holds it.

    Raises:
        OSError: the file cannot be made.
        NotImplementedError: the file system knows no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise refusal from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def require_space(folder: Path, size: int) -> None:
    """Refuse to begin what would fill the disk.

    Args:
        folder: where something is to be written; it need not be there yet.
        size: in bytes.

    Raises:
        Error: the file system has less than that left.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise Error(
            f"the disk of {folder} is too full: {size / 1e6:,.1f} MB are needed, and {free / 1e6:,.1f} MB are free"
        )


def rename_durably(source: Path, path: Path, *, new: bool = False) -> None:
    """Give the file ``source`` the name ``path`` in the same folder: its bytes are on the disk before the name is.

    Of two processes that make one ``new`` file at once, the second is refused, where the file system has hard links.

    Raises:
        OSError: the file system refused.
    """
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        if new:
            path.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        new = False
    if new:
        source.unlink()
    else:
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
