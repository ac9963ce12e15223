"""Whether probabilities mean what they say: the reliability curve, and how far off it is. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import DRAWS, SEED, wilson_interval

BINS = 15
_HALVINGS = 16  # of the search for a bound: to 1 / 10,000 of a standard error
_FARTHEST = 6.0  # standard errors from the diagonal, beyond what was seen, that are searched


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the mean distance of confidence from accuracy, 0 … 1 (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: float (N,), the probability of each answer.
        correct: bool (N,), whether it was right.
        bins: of equal width, each without its lower edge, over which the means are taken.
    """
    surplus = np.bincount(_bin(confidence, bins), confidence - correct, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def calibration_error_interval(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """Return the 95 % interval of ``expected_calibration_error``, for the probabilities that were given.

    Chance alone moves each bin off the diagonal, and never towards it: on few pictures the error is too high, and a
    bootstrap of it is higher still. So this asks for which true errors the one that was seen is not unusual. It moves
    every bin's accuracy by the same number of standard errors, towards the diagonal (where it stays) or away from it,
    draws the right answers of each bin anew (binomial), and takes the moves at which 2.5 % of the draws have an error
    as high, and as low, as was seen. Where probabilities are exact the interval begins at 0.

    In simulations of 50 to 10,000 pictures it covers the true error in 91 to 97 of 100 cases (it leaves out that bins
    hold other pictures each time), in more where nearly all answers are right and sure. It may end little above the
    error, or lie below it.
    """
    in_bin = _bin(confidence, bins)
    n = np.bincount(in_bin, minlength=bins)
    there, n = n > 0, n[n > 0]
    said, right = (np.bincount(in_bin, values, minlength=bins)[there] / n for values in (confidence, correct))
    off, side = np.abs(said - right), np.where(right > said, 1.0, -1.0)
    likely = (n * right + 2) / (n + 4)  # Agresti and Coull's, not 0 or 1 where all answers are wrong or right
    error = np.sqrt(likely * (1 - likely) / n)
    seen = float(n @ off)

    def moved(by: float) -> np.ndarray:
        """Return the bins' accuracies; one that would leave 0 … 1 goes to the other side of the diagonal."""
        far = np.clip(off + by * error, 0, np.maximum(said, 1 - said))
        place = said + side * far
        result: np.ndarray = np.where((place < 0) | (place > 1), said - side * far, place).clip(0, 1)
        return result

    def share_below(by: float) -> float:
        rights = np.random.default_rng(seed).binomial(n, moved(by), (draws, len(n)))
        apart = np.abs(rights - n * said).sum(axis=1) - seen
        equal = np.abs(apart) < 1e-9 * len(confidence)  # whole numbers of answers: ties count half
        return float((equal / 2 + (~equal & (apart < 0))).mean())

    def bound(share: float) -> float:
        low, high = -float((off / error).max()), _FARTHEST
        if share_below(low) < share:
            return 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if share_below(middle) > share else (low, middle)
        return float(n @ np.abs(moved(high) - said) / n.sum())

    return bound(0.975), bound(0.025)


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
