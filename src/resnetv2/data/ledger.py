"""What was found out about pictures, kept in the user's cache: who has seen a file need not decode it again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from resnetv2.cache import cache_path
from resnetv2.console import talk
from resnetv2.data.shards import Shards, shard_name
from resnetv2.errors import Error
from resnetv2.files import replace_file

VERSION = 2  # of what the facts mean
_SETTLED = 2 * 10**9  # ns: a file younger than this may change again within the tick of its file system's clock
_SPARE = 100_000  # rows kept beyond twice what was asked for
_DIGEST = hashlib.sha256().digest_size


class Ledger:
    """The facts about the pictures below one folder, by path, size and times of the last changes, of content and entry.

    A ledger that is damaged, absent or of another version is an empty one. Pictures that could not be read are not in
    it: their reason may be gone.

    Args:
        root: the folder.
        facts: the structured dtype of a row.
    """

    def __init__(self, root: Path, facts: np.dtype) -> None:
        self._row = np.dtype([("key", "u8", 2), ("facts", facts)])
        place = f"{VERSION}\n{PIL.__version__}\n{facts.descr}\n{os.path.realpath(root)}"
        name = hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()
        self._path = cache_path("facts", name[:32])
        self._rows = self._read()

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for keys (n, 2) which are known, bool (n,), and the facts of those."""
        first = self._rows["key"][:, 0]
        places = np.minimum(np.searchsorted(first, keys[:, 0]), max(len(first) - 1, 0))
        if not len(first):
            return np.zeros(len(keys), bool), self._rows["facts"]
        known = (self._rows["key"][places] == keys).all(axis=1) & keys.any(axis=1)
        return known, self._rows["facts"][places[known]]

    def write(self, keys: np.ndarray, facts: np.ndarray) -> None:
        """Keep these facts beside earlier ones; a cache that cannot be written is said and otherwise harmless."""
        keep = keys.any(axis=1)
        rows = np.empty(int(keep.sum()), self._row)
        rows["key"], rows["facts"] = keys[keep], facts[keep]
        others = self._rows[~np.isin(self._rows["key"][:, 0], rows["key"][:, 0])]
        rows = np.concatenate([rows, others[: len(rows) + _SPARE]])  # of files that changed, the old facts go in time
        rows = rows[np.argsort(rows["key"][:, 0], kind="stable")]
        try:
            with replace_file(self._path) as temporary, temporary.open("wb") as file:
                file.write(hashlib.sha256(rows.data).digest())
                file.write(rows.data)
        except Error as error:
            talk().print(f"warning: the next check will be as slow as this one: {error}", soft_wrap=True)

    def _read(self) -> np.ndarray:
        try:
            content = self._path.read_bytes()
        except OSError:
            content = b""
        rows = memoryview(content)[_DIGEST:]
        if len(rows) % self._row.itemsize or hashlib.sha256(rows).digest() != content[:_DIGEST]:
            return np.empty(0, self._row)
        return np.frombuffer(rows, self._row)


def file_keys(root: Path, paths: Sequence[str]) -> np.ndarray:
    """Return a key for each file's path, size and time, uint64 (n, 2); 0, 0 for what is gone or has just changed."""
    keys = np.zeros((len(paths), 2), np.uint64)
    newest = time.time_ns() - _SETTLED
    prefix = os.path.join(root, "")  # noqa: PTH118  ten times as fast for a million paths
    for i, path in enumerate(paths):
        try:
            stat = os.stat(prefix + path)  # noqa: PTH116  as above
        except (OSError, ValueError):
            continue
        if stat.st_mtime_ns < newest:
            keys[i] = _key(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {path}")
    return keys


def member_keys(shards: Shards) -> np.ndarray:
    """Return the same for pictures in shards: a shard that changes makes all of its pictures unknown."""
    keys = np.zeros((len(shards.offset), 2), np.uint64)
    newest = time.time_ns() - _SETTLED
    for number in np.unique(shards.shard):
        stat = (shards.folder / shard_name(number)).stat()
        if stat.st_mtime_ns < newest:
            for i in np.flatnonzero(shards.shard == number):
                keys[i] = _key(f"{stat.st_size} {stat.st_mtime_ns} {number} {shards.offset[i]} {shards.size[i]}")
    return keys


def _key(text: str) -> np.ndarray:
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()
    return np.frombuffer(digest, np.uint64)
