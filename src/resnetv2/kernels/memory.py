"""Memory that a training step frees and asks for again, kept in between.

glibc takes every block above 32 MiB fresh from the system and gives it back at once. The system clears it page by page,
and on a CPU that costs more than batch norm, ReLU and additions themselves: `BENCHMARKS.md` has the figures. A map of
256 channels and 56×56 pixels crosses the 32 MiB at 11 pictures.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# names and values of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MMAP_THRESHOLD = 32 << 20  # where glibc's own, which grows with what is freed, ends on 64-bit systems
_MMAP_MAX = 65536  # glibc's own


@contextmanager
def reuse_memory() -> Iterator[None]:
    """Let the process keep within the block what it frees, for its next allocations; at its end give back what is free.

    For all threads of the process, and not to be nested. Does nothing without glibc: on Windows, macOS and musl.
    Numbers do not depend on it. The peak of resident memory grows by what lies between blocks of different sizes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _MMAP_MAX)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MMAP_THRESHOLD)
        libc.malloc_trim(ctypes.c_size_t(0))
