"""Probabilities of a softmax, by rows and by columns, without ever holding all of them. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True)
class Probabilities:
    """What ``softmax`` gives for logits, and figures of each sample, float64 (N,).

    Attributes:
        logits: float (N, K).
        highest: the highest logit.
        scale: the sum of exp(logit - highest).
        surprise: minus the logarithm of the true class's probability; 0 is certain.
        brier: the squared distance of the probabilities from the truth, 0 … 2; halved with two classes.
    """

    logits: np.ndarray
    highest: np.ndarray
    scale: np.ndarray
    surprise: np.ndarray
    brier: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> Probabilities:
        """Compute them from logits float (N, K) and labels int (N,)."""
        n, k = logits.shape
        highest, scale, surprise, brier = (np.empty(n) for _ in range(4))
        step = max(1, _ROWS // k)
        for start in range(0, n, step):
            part = slice(start, start + step)
            rows = np.arange(len(labels[part]))
            scaled = logits[part].astype(np.float64)
            highest[part] = scaled.max(axis=1)
            powers = np.exp(scaled - highest[part, None])
            scale[part] = powers.sum(axis=1)
            true = scaled[rows, labels[part]]
            surprise[part] = np.log(scale[part]) - (true - highest[part])
            powers /= scale[part, None]
            powers[rows, labels[part]] -= 1
            brier[part] = (powers**2).sum(axis=1)
        return cls(logits, highest, scale, surprise, brier / 2 if k == 2 else brier)

    @property
    def confidence(self) -> np.ndarray:
        """The highest probability of each sample (N,)."""
        return 1 / self.scale

    def column(self, k: int) -> np.ndarray:
        """Return the probability of class k for each sample (N,)."""
        result: np.ndarray = np.exp(self.logits[:, k] - self.highest) / self.scale
        return result
