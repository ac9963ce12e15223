"""Whether probabilities mean what they say. NumPy only."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the mean distance of confidence from accuracy, 0 … 1 (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: float (N,), the probability of each answer.
        correct: bool (N,), whether it was right.
        bins: of equal width, each without its lower edge, over which the means are taken.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(place, confidence - correct, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))
