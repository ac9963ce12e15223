"""Find the pictures that cannot be read, before an hour of training finds the first of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnetv2.console import Counter
from resnetv2.errors import DataError
from resnetv2.preprocess import open_picture

_SHOWN = 20  # bad pictures spelled out; the rest are counted


def check_pictures(paths: Sequence[Path], progress: Counter | None = None) -> None:
    """Decode every picture completely, in parallel.

    Args:
        paths: the picture files.
        progress: called with the pictures done and the total.

    Raises:
        DataError: naming the pictures that cannot be read, each with its reason.
    """
    bad = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for done, (path, reason) in enumerate(zip(paths, pool.map(_reason, paths), strict=True), 1):
            if reason:
                bad.append(f"{path}: {reason}")
            if progress is not None:
                progress(done, len(paths))
    if bad:
        more = [f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        raise DataError(f"{len(bad)} of {len(paths)} pictures cannot be read:\n  " + "\n  ".join(bad[:_SHOWN] + more))


def _reason(path: Path) -> str:
    try:
        open_picture(path)
    except DataError as error:
        return str(error)
    return ""
