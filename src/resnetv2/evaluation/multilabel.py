"""The figures of a network that answers each class with yes or no. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import jackknife_interval, wilson_interval
from resnetv2.evaluation.perclass import Counts, Rankings
from resnetv2.evaluation.ranking import FAULTLESS, Ranking
from resnetv2.evaluation.undefined import mean_defined


def multilabel_report(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of ``evaluate`` for any number of labels a picture; a class is answered at 0.5 and above.

    Args:
        logits: float (N, K), N above 0; their sigmoid is the probability of each class.
        labels: uint8 or bool (N, K), 1 where a picture has the class.
        classes: K names.

    Returns:
        ``n``; ``map``, the mean of the classes' average precision, with ``map_ci95`` (jackknife over pictures);
        ``exact_match``, the share of pictures all of whose labels are right, with ``exact_match_ci95`` (Wilson);
        ``micro``, ``macro`` and ``weighted``: precision, recall, f1; ``roc_auc``, the mean of the classes';
        ``per_class``: label, n, precision, recall, f1, roc_auc, average_precision; ``undefined``: why a figure is None,
        by its name.
    """
    n = len(logits)
    truth, answers = labels.astype(bool), logits >= 0
    counts = Counts((truth & answers).sum(axis=0), answers.sum(axis=0), truth.sum(axis=0))
    rankings = Rankings.of([Ranking.of(logits[:, i], truth[:, i]) for i in range(len(classes))])
    undefined = counts.reasons(classes) | rankings.reasons(classes)
    exact = int((truth == answers).all(axis=1).sum())
    averages = counts.averages()
    shares = counts.micro()
    interval = map_interval(logits, truth) if n > 1 and truth.any() else None
    if not truth.any():
        undefined["map"] = undefined["roc_auc"] = undefined["map_ci95"] = "no picture has any label"
    elif interval is None:
        undefined["map_ci95"] = FAULTLESS if n > 1 else "an interval needs two pictures"
    return {
        "n": n,
        "map": mean_defined(rankings.average_precision),
        "map_ci95": interval,
        "exact_match": exact / n,
        "exact_match_ci95": list(wilson_interval(exact, n)),
        "roc_auc": mean_defined(rankings.roc_auc),
        "micro": shares,
        **averages,
        "per_class": [a | b for a, b in zip(counts.lines(classes), rankings.lines(), strict=True)],
        "undefined": undefined,
    }


def map_interval(logits: np.ndarray, truth: np.ndarray) -> list[float] | None:
    """Return the jackknife's interval of the mean average precision over the classes that are present.

    None where no picture is ranked wrong: these cannot tell how often one would be.

    Args:
        logits: float (N, K), N above 1.
        truth: bool (N, K), True somewhere.
    """
    columns = [Ranking.of(logits[:, i], truth[:, i]) for i in range(truth.shape[1]) if truth[:, i].any()]
    without_each = np.mean([ranking.average_precision_without_each() for ranking in columns], axis=0)
    interval = jackknife_interval(float(np.mean([r.average_precision() for r in columns])), without_each)
    return list(interval) if interval else None
