"""How well scores put positives before negatives. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Samples by falling score, those with equal scores in one step.

    Attributes:
        positives: int (steps,), the positives down to each step.
        total: int (steps,), all samples down to each step.
    """

    positives: np.ndarray
    total: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray) -> Ranking:
        """Rank scores (N,), of which ``positive`` bool (N,) are to come first."""
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        return cls(np.cumsum(positive[order])[ends], ends + 1)

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
