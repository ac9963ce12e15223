"""Whether probabilities mean what they say. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import wilson_interval

BINS = 15
_STEPS = 20  # of a coverage curve


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the mean distance of confidence from accuracy, 0 … 1 (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: float (N,), the probability of each answer.
        correct: bool (N,), whether it was right.
        bins: of equal width, each without its lower edge, over which the means are taken.
    """
    surplus = np.bincount(_bin(confidence, bins), confidence - correct, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def reliability_curve(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Return, for each bin of ``expected_calibration_error`` that holds answers, what was said and what was so.

    Returns:
        low, high: the bin's edges; n; confidence: its mean; accuracy, with accuracy_ci95 (Wilson).
    """
    place = _bin(confidence, bins)
    n = np.bincount(place, minlength=bins).tolist()
    said, right = (np.bincount(place, values, minlength=bins) for values in (confidence, correct))
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": n[i],
            "confidence": float(said[i]) / n[i],
            "accuracy": int(right[i]) / n[i],
            "accuracy_ci95": list(wilson_interval(int(right[i]), n[i])),
        }
        for i in range(bins)
        if n[i]
    ]


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    place: np.ndarray = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return place


def coverage_curve(confidence: np.ndarray, correct: np.ndarray, steps: int = _STEPS) -> list[dict[str, Any]]:
    """Return how often answers are right when only the most confident ones are given.

    Returns:
        For coverages that rise to 1: coverage, the share that is answered; threshold, the lowest confidence among them;
        n; accuracy, with accuracy_ci95 (Wilson).
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(correct[order])
    curve = []
    for n in _sizes(ranked, steps):
        hits = int(right[n - 1])
        curve.append(
            {
                "coverage": n / len(ranked),
                "threshold": float(ranked[n - 1]),
                "n": n,
                "accuracy": hits / n,
                "accuracy_ci95": list(wilson_interval(hits, n)),
            }
        )
    return curve


def _sizes(ranked: np.ndarray, steps: int) -> list[int]:
    """Return numbers of the most confident answers, evenly spread; equal confidences stay together."""
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each run of equal confidences
    wanted = np.unique(np.linspace(1, len(ranked), steps).round().astype(int)) - 1
    sizes: list[int] = (np.unique(last[np.searchsorted(last, wanted)]) + 1).tolist()
    return sizes
