"""How well scores put positives before negatives. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetv2.evaluation.intervals import jackknife_interval
from resnetv2.evaluation.undefined import ratio


@dataclass(frozen=True)
class Ranking:
    """Samples by falling score, those with equal scores in one step.

    Attributes:
        positives: int (steps,), the positives down to each step.
        total: int (steps,), all samples down to each step.
        step: int (N,), the step of each sample, in the order in which they were given.
        positive: bool (N,), likewise.
    """

    positives: np.ndarray
    total: np.ndarray
    step: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray) -> Ranking:
        """Rank scores (N,), of which ``positive`` bool (N,) are to come first."""
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        step = np.empty(len(order), np.int64)
        step[order] = np.searchsorted(ends, np.arange(len(order)))
        return cls(np.cumsum(positive[order])[ends], ends + 1, step, positive)

    def roc_auc(self) -> float | None:
        """Return the chance that a positive's score is above a negative's, ties half; None without both."""
        positives, negatives = int(self.positives[-1]), int(self.total[-1] - self.positives[-1])
        if not positives or not negatives:
            return None
        tp, fp = np.append(0, self.positives), np.append(0, self.total - self.positives)
        twice = int((np.diff(fp) * (tp[1:] + tp[:-1])).sum())  # whole numbers: exact
        return twice / (2 * positives * negatives)

    def average_precision(self) -> float | None:
        """Return the mean precision at the positives, scikit-learn's without interpolation; None without any."""
        positives = int(self.positives[-1])
        if not positives:
            return None
        gained = np.diff(self.positives, prepend=0)
        return float((gained * (self.positives / self.total)).sum()) / positives

    def roc_auc_without_each(self) -> np.ndarray:
        """Return what ``roc_auc`` would be without each sample (N,); where that is undefined, what it is."""
        tp, fp = np.append(0, self.positives), np.append(0, self.total - self.positives)
        positives, negatives = int(tp[-1]), int(fp[-1])
        above = (tp[:-1] + tp[1:]) / 2  # positives above a step, its own half
        below = negatives - (fp[:-1] + fp[1:]) / 2
        won = float((np.diff(fp) * above).sum())
        pairs = np.where(self.positive, below[self.step], above[self.step])  # won ones that the sample is in
        left = np.where(self.positive, (positives - 1) * negatives, positives * (negatives - 1))
        result: np.ndarray = np.where(left > 0, ratio(won - pairs, left), won / (positives * negatives))
        return result

    def average_precision_without_each(self) -> np.ndarray:
        """Return what ``average_precision`` would be without each sample (N,); of the only positive, what it is.

        Without a sample, each step from its own on holds one fewer, and without a positive one positive fewer.
        """
        gained, tp, total = np.diff(self.positives, prepend=0), self.positives, self.total
        positives = int(tp[-1])
        as_is = gained * ratio(tp, total)
        fewer = ratio(gained * tp, total - 1)  # NaN where a step would be empty: it had no positive to gain, or one
        fewer_positives = ratio(gained * (tp - 1), total - 1)
        before = np.cumsum(as_is) - as_is
        negative = before + _from_here(np.nan_to_num(fewer))
        later = _from_here(np.nan_to_num(fewer_positives)) - np.nan_to_num(fewer_positives)
        own = np.nan_to_num(ratio((gained - 1) * (tp - 1), total - 1))
        rest = max(positives - 1, 1)
        with_positive = (before + own + later) / rest if positives > 1 else np.full(len(tp), as_is.sum())
        result: np.ndarray = np.where(self.positive, with_positive[self.step], negative[self.step] / positives)
        return result


def tell_extreme(share: float) -> str:
    """Return why a figure of 0 or 1 has no interval."""
    return f"{'no' if share else 'every'} picture is ranked wrong: these cannot tell how often one would be"


def mean_interval(share: float, rankings: Sequence[Ranking], figure: str) -> list[float] | None:
    """Return the jackknife's 95 % interval of the mean of a figure over several rankings of the same samples.

    None at 0 and 1.

    Args:
        share: the mean.
        rankings: those that define the figure.
        figure: "roc_auc" or "average_precision".
    """
    without_each = sum(getattr(ranking, f"{figure}_without_each")() for ranking in rankings) / len(rankings)
    interval = jackknife_interval(share, without_each)
    return list(interval) if interval else None


def _from_here(values: np.ndarray) -> np.ndarray:
    """Return the sum of each value and those that follow."""
    result: np.ndarray = np.cumsum(values[::-1])[::-1]
    return result
