"""Precision, recall and F1 of each class and their averages, scikit-learn's with ``zero_division=nan``. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetv2.evaluation.ranking import Ranking
from resnetv2.evaluation.undefined import mean_defined, named, number, ratio


@dataclass(frozen=True)
class Counts:
    """Of each class, int (K,): answers that were right, answers given, and pictures that have it."""

    hits: np.ndarray
    given: np.ndarray
    actual: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """float64 (K,), NaN for a class that was never answered."""
        return ratio(self.hits, self.given)

    @property
    def recall(self) -> np.ndarray:
        """float64 (K,), NaN for a class without pictures."""
        return ratio(self.hits, self.actual)

    @property
    def f1(self) -> np.ndarray:
        """float64 (K,), NaN for a class that was never answered and has no pictures."""
        return ratio(2 * self.hits, self.given + self.actual)

    def lines(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return label, n, precision, recall and f1 of each class."""
        rows = zip(classes, self.actual.tolist(), self.precision, self.recall, self.f1, strict=True)
        return [
            {"label": label, "n": n, "precision": number(p), "recall": number(r), "f1": number(f)}
            for label, n, p, r, f in rows
        ]

    def averages(self) -> dict[str, dict[str, float | None]]:
        """Return macro (each class alike) and weighted (by its pictures) means over the classes that define them."""
        figures = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            "macro": {name: mean_defined(values) for name, values in figures.items()},
            "weighted": {name: mean_defined(values, self.actual) for name, values in figures.items()},
        }

    def micro(self) -> dict[str, float | None]:
        """Return precision, recall and f1 of all answers together."""
        whole = Counts(*(column.sum(keepdims=True) for column in (self.hits, self.given, self.actual)))
        return {name: number(getattr(whole, name)[0]) for name in ("precision", "recall", "f1")}

    def reasons(self, classes: Sequence[str]) -> dict[str, str]:
        """Return why some classes lack a figure."""
        never, absent = self.given == 0, self.actual == 0
        reasons = {
            "per_class.precision": named("never answered", classes, never),
            "per_class.recall": named("no pictures of", classes, absent),
            "per_class.f1": named("neither answered nor pictures of", classes, never & absent),
        }
        return {figure: reason for figure, reason in reasons.items() if reason}


@dataclass(frozen=True)
class Rankings:
    """ROC-AUC and average precision of each class against the others, float64 (K,), NaN where undefined."""

    roc_auc: np.ndarray
    average_precision: np.ndarray

    @classmethod
    def of(cls, rankings: Sequence[Ranking]) -> Rankings:
        """Take the figures of one ranking for each class."""
        figures = [(ranking.roc_auc(), ranking.average_precision()) for ranking in rankings]
        columns = np.array(figures, np.float64).reshape(-1, 2)  # None becomes NaN
        return cls(columns[:, 0], columns[:, 1])

    def lines(self) -> list[dict[str, float | None]]:
        """Return roc_auc and average_precision of each class."""
        rows = zip(self.roc_auc, self.average_precision, strict=True)
        return [{"roc_auc": number(auc), "average_precision": number(precision)} for auc, precision in rows]

    def reasons(self, classes: Sequence[str]) -> dict[str, str]:
        """Return why some classes lack a figure."""
        reasons = {
            "per_class.roc_auc": named("pictures with and without it are needed", classes, np.isnan(self.roc_auc)),
            "per_class.average_precision": named("no pictures of", classes, np.isnan(self.average_precision)),
        }
        return {figure: reason for figure, reason in reasons.items() if reason}
