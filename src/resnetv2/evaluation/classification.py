"""The figures of a classifier from logits and labels, each with what is needed to doubt it. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnetv2.evaluation.calibration import coverage_curve
from resnetv2.evaluation.intervals import (
    Z95,
    bootstrap_intervals,
    mean_share_interval,
    wilson_interval,
)
from resnetv2.evaluation.perclass import Cases, Counts, Rankings
from resnetv2.evaluation.probabilities import Probabilities
from resnetv2.evaluation.ranking import Ranking, mean_interval, tell_extreme
from resnetv2.evaluation.reliability import (
    calibration_error_interval,
    expected_calibration_error,
    reliability_curve,
)
from resnetv2.evaluation.undefined import mean_defined, number

_TOP = 5
_MANY = 2_000  # classes: no more have a confusion matrix, whose square is printed, and rankings, each a sort
_FEWEST = 6  # mistakes of one model alone that McNemar's exact test tells from chance: 2 / 2^6 < 5 %


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return counts (classes, classes): rows are true classes, columns are predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Count the rows whose true class is among the k highest logits; ties go to the lower class index."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = (logits > true).sum(axis=1) + ((logits == true) & earlier).sum(axis=1)
    return int((rank < k).sum())


def smallest_difference(correct: int, n: int) -> dict[str, Any]:
    """Return the difference of top-1 that n pictures can show between a model and another one.

    Two models with the same share of mistakes e disagree on at most 2 e n pictures, so that a difference of
    1.96 √(2 e / n) is not chance (McNemar 1947), and of no fewer than six pictures. Models that make the same mistakes
    can be told apart sooner; ``compare`` finds out.

    Returns:
        ``smallest_difference``, 0 … 1, and ``note``, a sentence.
    """
    mistakes = 1 - correct / n
    difference = min(1.0, max(_FEWEST / n, Z95 * math.sqrt(2 * mistakes / n)))
    note = (
        f"With {n:,} picture{'s' if n != 1 else ''}, a model whose top-1 differs by less than about {difference:.1%} "
        "cannot be told from this one; compare the two on the same pictures."
    )
    return {"smallest_difference": difference, "note": note}


def classification_report(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of ``evaluate`` for one label a picture.

    Args:
        logits: float (N, K), N above 0.
        labels: int (N,).
        classes: K names.

    Returns:
        ``n``; ``top1``, ``top5`` (more than five classes), ``balanced_accuracy`` (the mean recall), ``log_loss`` and
        ``brier`` (of the softmax; Brier's score is 0 … 2, with two classes 0 … 1), ``roc_auc`` and
        ``average_precision`` (with two classes those of the second, otherwise the mean of every class against the
        others), and ``ece``, the expected calibration error in 15 bins, each with its 95 % interval as ``…_ci95`` =
        [low, high]; ``reliability``, the bins; ``coverage``, how often answers are right when only the most confident
        are given; ``macro`` and ``weighted``: precision, recall, f1 and their intervals; ``per_class``: label, n,
        precision, recall, f1, roc_auc, average_precision; ``confusion``: K lists of K counts, a row for each true
        class; ``smallest_difference`` and ``note``; ``undefined``: why a figure is None, by its name.
    """
    n, k = logits.shape
    predicted = logits.argmax(axis=1)
    cases = Cases.of_answers(predicted, labels)
    counts = Counts.of(cases, k)
    correct = int(counts.hits.sum())
    probabilities = Probabilities.of(logits, labels)
    undefined = counts.reasons(classes)
    rank_figures, lines = _rank(probabilities, labels, classes, undefined)
    return {
        "n": n,
        "top1": correct / n,
        "top1_ci95": list(wilson_interval(correct, n)),
        **_top5(logits, labels, undefined),
        **_averages(counts, cases),
        **_proper_scores(probabilities, undefined),
        "ece": expected_calibration_error(probabilities.confidence, predicted == labels),
        "ece_ci95": list(calibration_error_interval(probabilities.confidence, predicted == labels)),
        "reliability": reliability_curve(probabilities.confidence, predicted == labels),
        "coverage": coverage_curve(probabilities.confidence, predicted == labels),
        **rank_figures,
        "per_class": [line | ranks for line, ranks in zip(counts.lines(classes), lines, strict=True)],
        "confusion": _confusion(predicted, labels, k, undefined),
        **smallest_difference(correct, n),
        "undefined": undefined,
    }


def _averages(counts: Counts, cases: Cases) -> dict[str, Any]:
    """Return the means over classes; the macro recall is the balanced accuracy, the weighted one is top-1."""
    there = counts.actual > 0
    averages = counts.averages(cases)
    averages["macro"]["recall_ci95"] = list(mean_share_interval(counts.hits[there], counts.actual[there]))
    averages["weighted"]["recall_ci95"] = list(wilson_interval(int(counts.hits.sum()), cases.samples))
    balanced = {f"balanced_accuracy{end}": averages["macro"][f"recall{end}"] for end in ("", "_ci95")}
    return {**balanced, **averages}


def _top5(logits: np.ndarray, labels: np.ndarray, undefined: dict[str, str]) -> dict[str, Any]:
    if logits.shape[1] <= _TOP:
        undefined["top5"] = "with five classes or fewer, every answer is among the five highest"
        return {"top5": None, "top5_ci95": None}
    correct = top_k_correct(logits, labels, _TOP)
    return {"top5": correct / len(labels), "top5_ci95": list(wilson_interval(correct, len(labels)))}


def _proper_scores(probabilities: Probabilities, undefined: dict[str, str]) -> dict[str, Any]:
    columns = np.stack([probabilities.surprise, probabilities.brier], axis=1)
    log_loss, brier = columns.mean(axis=0).tolist()
    figures: dict[str, Any] = {"log_loss": log_loss, "log_loss_ci95": None, "brier": brier, "brier_ci95": None}
    if len(columns) == 1:
        undefined["log_loss_ci95"] = undefined["brier_ci95"] = "an interval needs two pictures"
        return figures
    means = {"log_loss": lambda means: means[..., 0], "brier": lambda means: means[..., 1]}
    intervals = bootstrap_intervals(columns, means)
    return figures | {f"{name}_ci95": list(bounds) for name, bounds in intervals.items()}


def _rank(
    probabilities: Probabilities, labels: np.ndarray, classes: Sequence[str], undefined: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, float | None]]]:
    """Return the headline figures of rankings, and those of each class."""
    k = len(classes)
    names = ("roc_auc", "average_precision")
    if k > _MANY:
        reason = f"not computed for more than {_MANY:,} classes"
        undefined |= {**dict.fromkeys(names, reason), **{f"per_class.{name}": reason for name in names}}
        undefined |= dict.fromkeys((f"{name}_ci95" for name in names), reason)
        return dict.fromkeys((*names, *(f"{name}_ci95" for name in names))), [dict.fromkeys(names) for _ in classes]
    ranked = [Ranking.of(probabilities.column(i), labels == i) for i in range(k)]
    rankings = Rankings.of(ranked)
    reasons = rankings.reasons(classes)
    undefined |= reasons
    figures: dict[str, Any] = {}
    for name in names:
        column = getattr(rankings, name)
        there = [i for i in range(k) if not np.isnan(column[i]) and (k != 2 or i == 1)]
        figures[name] = number(column[1]) if k == 2 else mean_defined(column)
        figures[f"{name}_ci95"] = None
        if figures[name] is None:
            undefined[name] = undefined[f"{name}_ci95"] = reasons[f"per_class.{name}"]
        elif len(labels) == 1:
            undefined[f"{name}_ci95"] = "an interval needs two pictures"
        else:
            interval = figures[f"{name}_ci95"] = mean_interval(figures[name], [ranked[i] for i in there], name)
            undefined |= {} if interval else {f"{name}_ci95": tell_extreme(figures[name])}
    return figures, rankings.lines()


def _confusion(predicted: np.ndarray, labels: np.ndarray, k: int, undefined: dict[str, str]) -> list[list[int]] | None:
    if k > _MANY:
        undefined["confusion"] = f"not given for more than {_MANY:,} classes"
        return None
    counts: list[list[int]] = confusion_matrix(predicted, labels, k).tolist()
    return counts
