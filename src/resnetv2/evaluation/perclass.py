"""Precision, recall and F1 of each class and their averages, scikit-learn's with ``zero_division=nan``. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import effective_share_interval
from resnetv2.evaluation.ranking import Ranking
from resnetv2.evaluation.undefined import named, number, ratio

SHARES = ("precision", "recall", "f1")
HIT, MISSED, FALSE = range(3)  # answered and so, so and not answered, answered and not so


Estimate = tuple[float | None, list[float] | None]  # a figure and its interval


@dataclass(frozen=True)
class Cases:
    """Each sample with each class that it has or that was answered, int (cases,).

    Attributes:
        samples: how many there are.
        sample: which one, 0 … samples - 1.
        label: the class.
        kind: HIT, MISSED or FALSE.
    """

    samples: int
    sample: np.ndarray
    label: np.ndarray
    kind: np.ndarray

    @classmethod
    def of_answers(cls, answers: np.ndarray, labels: np.ndarray) -> Cases:
        """Take one answer and one label a sample, int (N,)."""
        n, wrong = len(labels), np.flatnonzero(answers != labels)
        sample = np.concatenate([np.arange(n), wrong])
        kind = np.concatenate([np.where(answers == labels, HIT, MISSED), np.full(len(wrong), FALSE)])
        return cls(n, sample, np.concatenate([labels, answers[wrong]]), kind)

    @classmethod
    def of_sets(cls, answers: np.ndarray, labels: np.ndarray) -> Cases:
        """Take any number of answers and labels a sample, bool (N, K)."""
        sample, label = np.nonzero(answers | labels)
        said, so = answers[sample, label], labels[sample, label]
        return cls(len(labels), sample, label, np.where(said & so, HIT, np.where(so, MISSED, FALSE)))

    def sums(self, change: np.ndarray) -> np.ndarray:
        """Return of each sample (N,) the sum over its cases of a number by kind and class (3, K)."""
        return np.bincount(self.sample, change[self.kind, self.label], minlength=self.samples)


@dataclass(frozen=True)
class Counts:
    """Of each class, int (K,): answers that were right, answers given, and pictures that have it."""

    hits: np.ndarray
    given: np.ndarray
    actual: np.ndarray

    @classmethod
    def of(cls, cases: Cases, classes: int) -> Counts:
        """Count the cases of K classes."""
        hits, missed, false = (np.bincount(cases.label[cases.kind == kind], minlength=classes) for kind in range(3))
        return cls(hits, hits + false, hits + missed)

    def without(self) -> list[Counts]:
        """Return what is left of each class without a sample, by the kind of its case."""
        h, g, a = self.hits, self.given, self.actual
        return [Counts(h - 1, g - 1, a - 1), Counts(h, g, a - 1), Counts(h, g - 1, a)]

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

    def averages(self, cases: Cases) -> dict[str, dict[str, Any]]:
        """Return macro (each class alike) and weighted (by its pictures) means over the classes that define them.

        Each has its 95 % interval as ``…_ci95``; see ``effective_share_interval``. ``cases`` are what is counted here.
        """
        there = self.actual[self.actual > 0]
        alike = len(there) ** 2 / float((1 / there).sum()) if len(there) else 1.0
        macro = {name: self._mean(name, cases, lambda counts: np.ones(len(counts.hits)), alike) for name in SHARES}
        weighted = {name: self._mean(name, cases, lambda counts: counts.actual, cases.samples) for name in SHARES}
        return {"macro": _flat(macro), "weighted": _flat(weighted)}

    def _mean(self, name: str, cases: Cases, weigh: Callable[[Counts], np.ndarray], size: float) -> Estimate:
        """Return the weighted mean of a share over the classes that define it, None without any, and its interval."""
        weights, sums = [], []
        for counts in (self, *self.without()):
            share = getattr(counts, name)
            weights.append(np.where(np.isnan(share), 0, weigh(counts)))
            sums.append(weights[-1] * np.nan_to_num(share))
        top, bottom = float(sums[0].sum()), float(weights[0].sum())
        if not bottom:
            return None, None
        tops, bottoms = (column[0].sum() + cases.sums(np.stack(column[1:]) - column[0]) for column in (sums, weights))
        return _with_interval(top / bottom, ratio(tops, bottoms), size)

    def micro(self, cases: Cases) -> dict[str, Any]:
        """Return precision, recall and f1 of all answers together, each with its interval."""
        kinds = [np.bincount(cases.sample, cases.kind == kind, minlength=cases.samples) for kind in range(3)]
        each = Counts(kinds[HIT], kinds[HIT] + kinds[FALSE], kinds[HIT] + kinds[MISSED])
        h, g, a = (column.sum(keepdims=True) for column in (self.hits, self.given, self.actual))
        whole, without_each = Counts(h, g, a), Counts(h - each.hits, g - each.given, a - each.actual)
        shares: dict[str, Estimate] = {}
        for name in SHARES:
            share = number(getattr(whole, name)[0])
            rest = getattr(without_each, name)
            shares[name] = (None, None) if share is None else _with_interval(share, rest, cases.samples)
        return _flat(shares)

    def reasons(self, classes: Sequence[str]) -> dict[str, str]:
        """Return why some classes lack a figure, and why their mean does where all of them do."""
        never, absent = self.given == 0, self.actual == 0
        reasons = {
            "per_class.precision": named("never answered", classes, never),
            "per_class.recall": named("no pictures of", classes, absent),
            "per_class.f1": named("neither answered nor pictures of", classes, never & absent),
        }
        if (never & absent).all():
            reasons["macro.f1"] = reasons["macro.f1_ci95"] = "no class is answered or has pictures"
        return {figure: reason for figure, reason in reasons.items() if reason}


def _with_interval(share: float, without_each: np.ndarray, size: float) -> Estimate:
    rest = np.where(np.isnan(without_each), share, without_each)  # undefined without this one: it tells nothing
    return share, list(effective_share_interval(min(share, 1.0), rest, size))


def _flat(shares: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        f"{name}{end}": part
        for name, estimate in shares.items()
        for end, part in zip(("", "_ci95"), estimate, strict=True)
    }


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
