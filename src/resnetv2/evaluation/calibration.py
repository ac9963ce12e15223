"""Whether probabilities mean what they say, and what makes them so. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetv2.errors import DataError
from resnetv2.evaluation.intervals import Z95, binomial_cdf, binomial_upper_bound, wilson_interval

CONFIDENCE = 0.95  # that a promised error rate is kept
_STEPS = 20  # of a coverage curve
_ROUNDS = 100  # of Newton's method; ten are usual
_ROWS = 4_000_000  # numbers in memory at a time


# --- temperature ---


@dataclass(frozen=True)
class Temperature:
    """What to divide logits by, with its 95 % interval, and the mean log loss before and after on n pictures."""

    value: float
    interval: tuple[float, float]
    log_loss_before: float
    log_loss_after: float
    n: int


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    """Return the temperature of the highest likelihood (Guo et al. 2017, arXiv 1706.04599).

    The log loss is convex in 1 / temperature; its lowest point is found by Newton's method in float64.
    The interval is Wald's for the logarithm.

    Args:
        logits: float (N, K).
        labels: int (N,).

    Raises:
        DataError: no temperature is best: every answer is right, or they are no better than chance.
    """
    n = len(labels)
    _check_bounded(logits, labels, _derivatives(logits, labels, 0.0)[1])
    low, high, inverse = 0.0, math.inf, 1.0
    for _ in range(_ROUNDS):
        _, slope, curve = _derivatives(logits, labels, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = inverse - slope / curve if curve > 0 else math.inf
        if not low < step < high:  # outside what is known to hold the lowest point: bisect, or go on
            step = 2 * inverse if math.isinf(high) else (low + high) / 2
        settled = abs(step - inverse) <= 1e-10 * inverse  # the error left is its square
        inverse = step
        if settled:
            break
    loss, _, curve = _derivatives(logits, labels, inverse)
    spread = math.exp(Z95 / (inverse * math.sqrt(n * curve)))
    before = _derivatives(logits, labels, 1.0)[0]
    return Temperature(1 / inverse, (1 / inverse / spread, spread / inverse), before, loss, n)


def _check_bounded(logits: np.ndarray, labels: np.ndarray, slope: float) -> None:
    if slope >= 0:
        raise DataError("the answers are no better than chance on these pictures: no temperature makes them mean more")
    if (np.take_along_axis(logits, labels[:, None], axis=1) >= logits).all():
        raise DataError(
            f"every answer is right on these {len(labels):,} pictures: how often confident answers are wrong cannot be "
            "learned from them; take more pictures"
        )


def _derivatives(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float, float]:
    """Return the mean log loss of softmax(inverse × logits), and its first and second derivatives by ``inverse``."""
    loss = slope = curve = 0.0
    step = max(1, _ROWS // logits.shape[1])
    for start in range(0, len(labels), step):
        part = logits[start : start + step].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)  # what is added to all logits of a picture changes nothing
        true = np.take_along_axis(part, labels[start : start + step, None], axis=1)[:, 0]
        powers = np.exp(inverse * part)
        total = powers.sum(axis=1)
        mean = (powers * part).sum(axis=1) / total
        loss += float((np.log(total) - inverse * true).sum())
        slope += float((mean - true).sum())
        curve += float(((powers * part**2).sum(axis=1) / total - mean**2).sum())
    n = len(labels)
    return loss / n, slope / n, curve / n


# --- answering only what is certain enough ---


def coverage_curve(confidence: np.ndarray, correct: np.ndarray, steps: int = _STEPS) -> list[dict[str, Any]]:
    """Return how often answers are right when only the most confident ones are given.

    Returns:
        For coverages that rise to 1: coverage, the share that is answered; threshold, the lowest confidence among them;
        n; accuracy, with accuracy_ci95 (Wilson).
    """
    ranked, right = _by_confidence(confidence, correct)
    curve = []
    for n in _sizes(ranked, 1, steps):
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


@dataclass(frozen=True)
class Threshold:
    """The lowest confidence that is answered, so that with 95 % certainty no more than ``error_rate`` is wrong.

    Attributes:
        value: answers below it are not given.
        error_rate: promised for what is answered.
        bound: the error rate that is not exceeded with 95 % certainty, at most ``error_rate``.
        n: pictures that it was found on.
        answered: how many of them reach it.
        errors: how many of those were wrong.
    """

    value: float
    error_rate: float
    bound: float
    n: int
    answered: int
    errors: int


def find_threshold(confidence: np.ndarray, correct: np.ndarray, error_rate: float) -> Threshold:
    """Find the threshold that answers the most pictures and still keeps an error rate with 95 % certainty.

    Thresholds are tried from high to low until the first whose upper bound (Clopper and Pearson 1934) exceeds
    the rate: a fixed sequence of tests, which keeps the certainty whole (Learn then Test, Angelopoulos et al. 2021,
    arXiv 2110.01052). There are several such sequences, which share the 5 % of doubt: the first begins with as many
    answers as could show the rate if all of them were right, the next ones with two, four … times as many, so that one
    mistake among few does not end all.

    Args:
        confidence: float (N,), the probability of each answer.
        correct: bool (N,), whether it was right; of pictures that did not train the model.
        error_rate: in (0, 1).

    Raises:
        DataError: too few pictures to show such a rate, or the model makes more mistakes at every threshold.
    """
    fewest = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-error_rate))
    if len(confidence) < fewest:
        lowest = 1 - (1 - CONFIDENCE) ** (1 / len(confidence))
        raise DataError(
            f"an error rate of {error_rate:.2%} takes {fewest:,} pictures to show and there are {len(confidence):,}, "
            f"with which {lowest:.2%} is the least"
        )
    sequences = max(1, int(math.log2(len(confidence) / fewest)))
    doubt = (1 - CONFIDENCE) / sequences
    first = math.ceil(math.log(doubt) / math.log1p(-error_rate))
    ranked, right = _by_confidence(confidence, correct)
    answered = 0
    for i in range(sequences):
        for n in _sizes(ranked, first * 2**i, _STEPS):
            if binomial_cdf(n - int(right[n - 1]), n, error_rate) > doubt:
                break
            answered = max(answered, n)
    if not answered:
        raise DataError(
            f"an error rate of {error_rate:.2%} cannot be promised: even of the {first:,} most confident answers, "
            f"{first - int(right[first - 1])} are wrong"
        )
    errors = answered - int(right[answered - 1])
    bound = binomial_upper_bound(errors, answered, doubt)
    return Threshold(float(ranked[answered - 1]), error_rate, bound, len(ranked), answered, errors)


def _by_confidence(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences from high to low, and how many answers down to each are right."""
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], np.cumsum(correct[order])


def _sizes(ranked: np.ndarray, fewest: int, steps: int) -> list[int]:
    """Return numbers of the most confident answers, evenly from ``fewest`` on; equal confidences stay together."""
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each run of equal confidences
    wanted = np.unique(np.linspace(fewest, len(ranked), steps).round().astype(int)) - 1
    sizes: list[int] = (np.unique(last[np.searchsorted(last, wanted)]) + 1).tolist()
    return sizes
