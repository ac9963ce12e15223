"""Whether a file is the one that its publisher stated."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from resnetv2.console import talk
from resnetv2.weights.location import Location


def fault(path: Path, location: Location) -> str:
    """Return how the file differs from the size and digest stated, "" if it does not; an empty file always does."""
    try:
        size = path.stat().st_size
        if not size or (location.size and size != location.size):
            return f"it has {size:,} bytes, expected {f'{location.size:,}' if location.size else 'some'}"
        if not location.digest:
            return ""
        kind, _, expected = location.digest.partition(":")
        with path.open("rb") as file:
            received = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return "" if received.startswith(expected) else f"its {kind} is {received}, expected {expected}"


def is_sound(path: Path, location: Location) -> bool:
    """Return whether the file is there and the one stated; one that is there and is another is told to the person."""
    problem = fault(path, location)
    if problem and os.access(path, os.F_OK):
        talk().print(f"{path} is damaged: {problem}; fetching it anew", soft_wrap=True)
    return not problem
