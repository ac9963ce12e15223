"""Find the pictures that cannot be read, before an hour of training finds the first of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from resnetv2.console import Counter
from resnetv2.errors import DataError
from resnetv2.preprocess import Readable, open_picture

_AT_ONCE = 64  # pictures handed to the threads in one go, so that a million paths cost no memory
_SHOWN = 20  # bad pictures spelled out; the rest are counted


def check_pictures(paths: Sequence[Readable], progress: Counter | None = None) -> None:
    """Decode every picture completely, in parallel.

    Args:
        paths: the picture files, or other places to read them from.
        progress: called with the pictures done and the total.

    Raises:
        DataError: naming the pictures that cannot be read, each with its reason.
    """
    bad = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            bad += [f"{path}: {reason}" for path, reason in zip(some, pool.map(_reason, some), strict=True) if reason]
            if progress is not None:
                progress(start + len(some), len(paths))
    if bad:
        more = [f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        raise DataError(f"{len(bad)} of {len(paths)} pictures cannot be read:\n  " + "\n  ".join(bad[:_SHOWN] + more))


def _reason(path: Readable) -> str:
    try:
        open_picture(path)
    except DataError as error:
        return str(error)
    return ""
