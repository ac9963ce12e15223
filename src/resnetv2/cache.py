"""The user's cache: where files go that can be fetched or made again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from resnetv2.console import talk
from resnetv2.errors import Error

VARIABLE = "RESNETV2_CACHE"
_PATIENCE = 1.0  # seconds of waiting for another process before that is said


def cache_path(*parts: str) -> Path:
    """Return an absolute path in the user's cache; nothing is made.

    The cache is the folder that ``RESNETV2_CACHE`` names, or else the system's folder for caches.
    """
    from platformdirs import user_cache_dir

    root = os.environ.get(VARIABLE) or user_cache_dir("resnetv2", appauthor=False)
    root = os.path.expanduser(root)  # noqa: PTH111  Path.expanduser raises where there is no such user
    return Path(root).absolute().joinpath(*parts)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the folder of ``path``, and let one process at a time into the block; who waits for a second is told why.

    Raises:
        Error: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            talk().print(f"another process is at work on {path.name}; waiting for it", soft_wrap=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise Error(
            f"cannot write to the cache {path.parent}: {reason}; set {VARIABLE} to a folder that can be written"
        ) from error
    try:
        yield
    finally:
        lock.release()
