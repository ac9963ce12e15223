"""95 % intervals: Wilson's for shares, the bootstrap for what is computed from means. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
DRAWS = 2_000  # of the bootstrap: the bounds move by about 3 % of the interval's width from seed to seed
SEED = 0
_AT_ONCE = 50_000  # drawn places in memory: they stay in the processor's cache
_NORMAL = NormalDist()

Statistic = Callable[[np.ndarray], np.ndarray]  # means (…, m) -> figure (…)


def wilson_interval(correct: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927); both numbers may be effective ones, not whole.

    Raises:
        ValueError: ``n`` is not above 0, or ``correct`` does not lie in 0 … n.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # the bound is exact at the ends; the arithmetic above may miss it by an ulp
    return (0.0 if correct == 0 else low), (1.0 if correct == n else high)


def mean_share_interval(hits: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """Return the interval of the mean of several shares, such as of the recalls of classes.

    It is Wilson's, with the sample size at which one share would vary as much as the mean does (Kish's effective size;
    Franco et al. 2019, J. Survey Statistics and Methodology 7). A bootstrap within each class would vary as much, but
    shrinks to nothing where no class has a mistake. A class with one picture says nothing of how it varies: it is given
    the variance of the mean share.

    Args:
        hits: int (K,).
        n: int (K,), all above 0.
    """
    shares = hits / n
    mean = float(shares.mean())
    within = shares * (1 - shares) / np.maximum(n - 1, 1)
    within[n == 1] = mean * (1 - mean)
    variance = float(within.sum()) / len(n) ** 2
    size = mean * (1 - mean) / variance if variance else len(n) ** 2 / float((1 / n).sum())
    return wilson_interval(min(mean * size, size), size)


def resamples(n: int, draws: int = DRAWS, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yield, for some draws at a time, how often each of n samples was drawn: int64 (part of draws, n)."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        places = rng.integers(0, n, (count, n))
        places += n * np.arange(count)[:, None]
        yield np.bincount(places.ravel(), minlength=count * n).reshape(count, n)


def bootstrap_intervals(
    columns: np.ndarray, statistics: Mapping[str, Statistic], draws: int = DRAWS, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Return the bootstrap's intervals of figures that are functions of means over samples.

    Samples are drawn with replacement from all of them, without strata. The bounds are corrected for bias and skewness
    (BCa: Efron 1987, J. American Statistical Association 82).

    Args:
        columns: float (n, m), n above 1; a row for each sample.
        statistics: by name, what turns means (…, m) into a figure (…).
        draws: how often to resample.
        seed: of the draws.
    """
    n = len(columns)
    columns = columns.astype(np.float64)
    total = columns.sum(axis=0)
    means = np.concatenate([counts @ columns for counts in resamples(n, draws, seed)]) / n
    without_one = (total - columns) / (n - 1)
    return {
        name: bca_interval(statistic(means), float(statistic(total / n)), statistic(without_one))
        for name, statistic in statistics.items()
    }


def bca_interval(drawn: np.ndarray, estimate: float, without_one: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the bias-corrected and accelerated bootstrap.

    Args:
        drawn: the figure of each resample (draws,), NaN where it is undefined: those are left out.
        estimate: the figure of the samples.
        without_one: the figure without each sample (n,), from which skewness is told.
    """
    drawn, without_one = drawn[~np.isnan(drawn)], without_one[~np.isnan(without_one)]
    below = float((drawn < estimate).mean() + (drawn == estimate).mean() / 2)
    edge = 1 / (2 * len(drawn))
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    influence = without_one.mean() - without_one
    spread = float((influence**2).sum())
    skew = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def level(z: float) -> float:
        return _NORMAL.cdf(bias + (bias + z) / (1 - skew * (bias + z)))

    # the k-th of n draws has k / (n + 1) of the distribution below it
    low, high = np.quantile(drawn, [level(-Z95), level(Z95)], method="weibull")
    return float(low), float(high)
