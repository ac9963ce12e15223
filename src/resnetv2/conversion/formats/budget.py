"""What a file may hold at most, counted before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resnetv2.errors import ConvertError

MAX_BYTES = 16 << 30  # four times the largest published network, BiT's R152x4
MAX_TENSORS = 50_000  # ten times the deepest, pytorchcv's 1001 layers
_MAX_NAME = 1_000


class Budget:
    """Counts the tensors and bytes that a file claims, and refuses what is too much, nameless or there twice."""

    def __init__(self) -> None:
        self.bytes = 0
        self.names: set[str] = set()

    def take(self, name: str, shape: Sequence[int], dtype: np.dtype) -> int:
        """Return the bytes of one claimed tensor.

        Raises:
            ConvertError: it is no array of numbers, or one more than allowed.
        """
        shown = name[:80]
        if not name or len(name) > _MAX_NAME or name in self.names:
            raise ConvertError(f"a tensor's name is empty, too long or there twice: {shown!r}")
        if dtype.kind not in "fiub" or len(shape) > 8 or any(side < 0 for side in shape):
            raise ConvertError(f"{shown} is no array of numbers: {dtype} {tuple(shape)}")
        size = math.prod(shape) * dtype.itemsize
        self.bytes += size
        self.names.add(name)
        if self.bytes > MAX_BYTES or len(self.names) > MAX_TENSORS:
            raise ConvertError(f"the file claims more than {MAX_BYTES >> 30} GiB or {MAX_TENSORS:,} tensors")
        return size
