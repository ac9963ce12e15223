"""Figures from logits and labels, each with what is needed to doubt it. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
_TOP = 5
_MOST_CONFUSED = 2_000  # classes: their square is printed


def wilson_interval(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927).

    Raises:
        ValueError: ``n`` is not above 0, or ``correct`` does not lie in 0 … n.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # the bound is exact at the ends; the arithmetic above may miss it by an ulp
    return (0.0 if correct == 0 else low), (1.0 if correct == n else high)


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return counts (classes, classes): rows are true classes, columns are predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Count the rows whose true class is among the k highest logits; ties go to the lower class index."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = (logits > true).sum(axis=1) + ((logits == true) & earlier).sum(axis=1)
    return int((rank < k).sum())


def classification_report(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of ``evaluate``.

    Args:
        logits: float (N, K), N above 0.
        labels: int (N,).
        classes: K names.

    Returns:
        n; top1 with top1_ci95 = [low, high] (Wilson); top5, or None with five classes or fewer; per_class: label, n,
        recall (None where n is 0); confusion: K lists of K counts, a row for each true class, or None with more than
        2,000 classes.
    """
    n, k = logits.shape
    predicted = logits.argmax(axis=1)
    hits = np.bincount(labels[predicted == labels], minlength=k)
    support = np.bincount(labels, minlength=k)
    correct = int(hits.sum())
    return {
        "n": n,
        "top1": correct / n,
        "top1_ci95": list(wilson_interval(correct, n)),
        "top5": top_k_correct(logits, labels, _TOP) / n if k > _TOP else None,
        "per_class": [
            {
                "label": name,
                "n": int(support[i]),
                "recall": int(hits[i]) / int(support[i]) if support[i] else None,
            }
            for i, name in enumerate(classes)
        ],
        "confusion": confusion_matrix(predicted, labels, k).tolist() if k <= _MOST_CONFUSED else None,
    }
