"""The figures of a network that answers each class with yes or no. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.evaluation.perclass import Cases, Counts, Rankings
from resnetv2.evaluation.ranking import Ranking, mean_interval, tell_extreme
from resnetv2.evaluation.undefined import mean_defined

_NONE = {"average_precision": "no picture has any label", "roc_auc": "no class has pictures with and without it"}


def multilabel_report(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of ``evaluate`` for any number of labels a picture; a class is answered at 0.5 and above.

    Args:
        logits: float (N, K), N above 0; their sigmoid is the probability of each class.
        labels: uint8 or bool (N, K), 1 where a picture has the class.
        classes: K names.

    Returns:
        ``n``; ``map`` and ``roc_auc``, the means of the classes' average precision and ROC-AUC (jackknife over
        pictures), and ``exact_match``, the share of pictures all of whose labels are right (Wilson), each with its 95 %
        interval as ``…_ci95``; ``micro``, ``macro`` and ``weighted``: precision, recall, f1 and their intervals;
        ``per_class``: label, n, precision, recall, f1, roc_auc, average_precision; ``undefined``: why a figure is None,
        by its name.
    """
    n = len(logits)
    truth, answers = labels.astype(bool), logits >= 0
    cases = Cases.of_sets(answers, truth)
    counts = Counts.of(cases, len(classes))
    ranked = [Ranking.of(logits[:, i], truth[:, i]) for i in range(len(classes))]
    rankings = Rankings.of(ranked)
    undefined = counts.reasons(classes) | rankings.reasons(classes)
    exact = int((truth == answers).all(axis=1).sum())
    return {
        "n": n,
        **_mean("map", "average_precision", ranked, rankings, undefined),
        "exact_match": exact / n,
        "exact_match_ci95": list(wilson_interval(exact, n)),
        **_mean("roc_auc", "roc_auc", ranked, rankings, undefined),
        "micro": counts.micro(cases),
        **counts.averages(cases),
        "per_class": [a | b for a, b in zip(counts.lines(classes), rankings.lines(), strict=True)],
        "undefined": undefined,
    }


def _mean(
    name: str, figure: str, ranked: Sequence[Ranking], rankings: Rankings, undefined: dict[str, str]
) -> dict[str, Any]:
    """Return the mean of a figure over the classes that define it, and its interval, under a name."""
    column = getattr(rankings, figure)
    there = [ranking for ranking, value in zip(ranked, column, strict=True) if not np.isnan(value)]
    share, interval = mean_defined(column), None
    if share is None:
        undefined[name] = undefined[f"{name}_ci95"] = _NONE[figure]
    elif len(ranked[0].positive) == 1:
        undefined[f"{name}_ci95"] = "an interval needs two pictures"
    else:
        interval = mean_interval(share, there, figure)
        undefined |= {} if interval else {f"{name}_ci95": tell_extreme(share)}
    return {name: share, f"{name}_ci95": interval}
