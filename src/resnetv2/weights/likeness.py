"""How far a picture's features lie from those of the training pictures. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from resnetv2.errors import ConfigError

AXES = 64  # as many as gave what the whole covariance does (BENCHMARKS.md), in a small part of its size
VARIANCES = "likeness.variances"
NAMES = ("likeness.means", "likeness.axes", VARIANCES)  # of the tensors in a model file
_LEAST = 1e-6  # of the features' whole variance: what does not vary within classes still has some
_ROWS = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True)
class TrainingFeatures:
    """The pooled features of the training pictures, as one normal distribution for each class, all of one covariance.

    Features are scaled to unit length first. Distances are Mahalanobis's from the nearest mean (Lee et al. 2018, arXiv
    1807.03888). The covariance is that of
    probabilistic principal components (Tipping and Bishop 1999): some axes with a variance each, and one for the rest,
    which is small to keep and sound where there are fewer pictures than features.

    Attributes:
        means: of the classes that had pictures, float32 (c, d).
        axes: orthonormal directions in which features vary most within classes, float32 (r, d); r may be 0.
        variances: along these axes, and last in any other direction, float32 (r + 1,), all above 0.
    """

    means: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> Self:
        """Learn them from features float (n, d) and labels int (n,)."""
        features = _to_unit(features)
        present, place = np.unique(labels, return_inverse=True)
        sums = np.zeros((len(present), features.shape[1]))
        np.add.at(sums, place, features)
        means = sums / np.bincount(place)[:, None]
        n, d = features.shape
        least = max(_LEAST * float(features.var(axis=0).mean()), float(np.finfo(np.float32).tiny))
        within = features - means[place]
        _, lengths, axes = np.linalg.svd(within, full_matrices=False)  # from high to low
        variances = np.square(lengths) / max(n - len(present), 1)
        r = max(min(AXES, d - 1, n - len(present)), 0)
        rest = variances[r:].sum() / (d - r)  # there may be more features than pictures
        kept = np.maximum(np.append(variances[:r], rest), least)
        return cls(means.astype(np.float32), axes[:r].astype(np.float32), kept.astype(np.float32))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], num_features: int) -> Self:
        """Return what ``to_tensors`` gave.

        Raises:
            ConfigError: absent, of another shape or type, or not finite.
        """
        means, axes, variances = (tensors.get(name, np.zeros(0, np.int8)) for name in NAMES)
        shapes = ((len(means), num_features), (len(axes), num_features), (len(axes) + 1,))
        whole = all(
            array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
            for array, shape in zip((means, axes, variances), shapes, strict=True)
        )
        if not whole or not len(means) or not (variances > 0).all():
            raise ConfigError("the features of its training pictures are not whole")
        return cls(means, axes, variances)

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names that a model file has for them."""
        return dict(zip(NAMES, (self.means, self.axes, self.variances), strict=True))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return how unlike features float (N, d) are: the mean square of standard deviations, float64 (N,).

        It is about 1 for pictures that the network was trained on, and more for others.
        """
        d = self.means.shape[1]
        means, axes = self.means.astype(np.float64), self.axes.astype(np.float64)
        along, rest = self.variances[:-1].astype(np.float64), float(self.variances[-1])
        centres = means @ axes.T
        nearest = np.empty(len(features))
        step = max(1, _ROWS // self.means.size)
        for start in range(0, len(features), step):
            some = _to_unit(features[start : start + step])
            parts = np.square((some @ axes.T)[:, None] - centres[None])  # (n, c, r)
            whole = np.square(some[:, None] - means[None]).sum(axis=2)
            others = np.maximum(whole - parts.sum(axis=2), 0)  # rounding may go below
            nearest[start : start + step] = ((parts / along).sum(axis=2) + others / rest).min(axis=1)
        nearest /= d
        return nearest


def _to_unit(features: np.ndarray) -> np.ndarray:
    """Return features (N, d) scaled to unit length, float64; nothing but zeros stays so."""
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    result: np.ndarray = values / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result
