"""What one picture file is: decoded completely, since half a JPEG has a perfect header."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.fingerprint import WORDS, fingerprint
from resnetv2.data.index import Contents, Index
from resnetv2.data.ledger import Ledger, file_keys, member_keys
from resnetv2.data.shards import Member
from resnetv2.preprocess import open_header, open_picture, read_picture

FACTS = np.dtype(
    [
        ("width", "u4"),  # pixels, upright
        ("height", "u4"),
        ("format", "S8"),  # Pillow's words, of the content
        ("mode", "S8"),
        ("bytes", "u8"),
        ("sha256", "u8", 4),  # of the file
        ("pixels", "u8", 2),  # BLAKE2 of the size and the RGB pixels: equal in copies saved without loss
        ("hash", "u8", WORDS),  # see fingerprint
        ("plain", "?"),
        ("mean", "f4"),  # of the grey picture, 0 to 255
        ("spread", "f4"),  # its standard deviation
        ("turned", "?"),  # by its EXIF orientation
    ]
)
_ORIENTATION = 0x0112
_LARGE = 2**24  # bytes of a file or pixels of a picture from which on they are taken one at a time: memory is bounded
_STRIP = 2**20  # pixels hashed in one go
_AT_ONCE = 256  # pictures handed to the threads in one go, so that a million paths cost no memory


@dataclass(frozen=True)
class Examined:
    """Facts of n pictures, FACTS (n,), and why some have none: place -> reason."""

    facts: np.ndarray
    reasons: dict[int, str]

    @property
    def readable(self) -> np.ndarray:
        """Which pictures can be read, bool (n,)."""
        mask = np.ones(len(self.facts), bool)
        mask[list(self.reasons)] = False
        return mask

    @property
    def contents(self) -> Contents:
        """Sizes and hashes of the files; zeros where one cannot be read."""
        sha256 = np.ascontiguousarray(self.facts["sha256"]).view(np.uint8).reshape(-1, 32)
        return Contents(self.facts["bytes"].astype(np.int64), sha256)


def examine_pictures(index: Index, progress: Counter | None = None) -> Examined:
    """Examine every picture, in parallel; those that were examined before and have not changed cost one look-up.

    Args:
        index: n pictures.
        progress: called with the pictures done and the total.
    """
    ledger, total = Ledger(index.root, FACTS), len(index.paths)
    keys = file_keys(index.root, index.paths) if index.shards is None else member_keys(index.shards)
    known, found = ledger.find(keys)
    facts = np.zeros(total, FACTS)
    facts[known] = found
    unknown, done = np.flatnonzero(~known), int(known.sum())
    reasons = {}
    examine_place = partial(_examine, threading.Lock())
    seen = known.copy()
    try:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            for start in range(0, len(unknown), _AT_ONCE):
                some = unknown[start : start + _AT_ONCE]
                for i, result in zip(some, pool.map(examine_place, [index.place(int(i)) for i in some]), strict=True):
                    if isinstance(result, str):
                        reasons[int(i)] = result
                    else:
                        facts[i], seen[i] = result, True
                if progress is not None:
                    progress(done + start + len(some), total)
    finally:  # who stops a check of a million pictures need not begin it again
        if seen.sum() > done:
            ledger.write(np.where(seen[:, None], keys, 0), facts)
    return Examined(facts, reasons)


def examine(data: bytes) -> np.void:
    """Return the facts, one row of FACTS, of an encoded picture.

    Raises:
        DataError: it cannot be read; see ``open_picture``.
    """
    picture = open_picture(data)
    grey = picture.convert("L")
    mean, spread = _moments(grey.histogram())
    bits, plain = fingerprint(grey)
    shape = f"{picture.width} {picture.height} ".encode()
    row: np.void = np.zeros(1, FACTS)[0]
    row["width"], row["height"], row["bytes"] = picture.width, picture.height, len(data)
    row["format"], row["mode"], row["turned"] = _header(data)
    row["sha256"] = np.frombuffer(hashlib.sha256(data).digest(), np.uint64)
    pixels = hashlib.blake2b(shape, digest_size=16)
    rows = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, rows):
        pixels.update(picture.crop((0, top, picture.width, min(top + rows, picture.height))).tobytes())
    row["pixels"] = np.frombuffer(pixels.digest(), np.uint64)
    row["hash"], row["plain"], row["mean"], row["spread"] = bits, plain, mean, spread
    return row


def _examine(turn: threading.Lock, path: Path | Member) -> np.void | str:
    """Return the facts of a picture file, or why it has none; large ones wait for their ``turn``."""
    try:
        size = path.size if isinstance(path, Member) else path.stat().st_size
        with turn if size > _LARGE else nullcontext():
            data = read_picture(path)
            if size > _LARGE or _area(data) <= _LARGE:
                return examine(data)
        with turn:
            return examine(data)
    except (OSError, ValueError) as error:  # gone, forbidden, no name at all, or no picture
        return getattr(error, "strerror", None) or str(error)


def _area(data: bytes) -> int:
    """Return the pixels that a header claims; 0 where it cannot be read, which is told when all of it is."""
    try:
        with open_header(data) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001  Pillow raises nearly anything on damaged bytes
        return 0


def _header(data: bytes) -> tuple[str, str, bool]:
    """Return format, mode, and whether EXIF turns a picture that can be read."""
    with open_header(data) as image:
        exif = image.format != "PNG" or b"eXIf" in data  # Pillow would decode a PNG again to look for it at the end
        turned = exif and image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        return image.format or "", image.mode, turned


def _moments(histogram: Sequence[int]) -> tuple[float, float]:
    counts, values = np.array(histogram, np.float64), np.arange(256)
    mean = float(counts @ values / counts.sum())
    return mean, float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
