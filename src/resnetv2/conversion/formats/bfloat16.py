"""bfloat16, which NumPy lacks: the upper half of a float32."""

from __future__ import annotations

import numpy as np


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return float32 numbers equal to the bfloat16 numbers whose bits are the uint16 array ``bits``."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
