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


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return the chance of at most k successes in n trials, each with chance p."""
    if k >= n or p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    i = np.arange(1, k + 1)
    ways = np.append(0, np.cumsum(np.log(n - i + 1) - np.log(i)))  # logarithms
    logs = ways + np.arange(k + 1) * math.log(p) + (n - np.arange(k + 1)) * math.log1p(-p)
    highest = float(logs.max())
    return min(1.0, math.exp(highest) * float(np.exp(logs - highest).sum()))


def binomial_upper_bound(k: int, n: int, chance: float) -> float:
    """Return Clopper and Pearson's upper bound (1934) of a share: below the true one with at most ``chance``.

    Args:
        k: successes.
        n: trials, above 0.
        chance: of being wrong, such as 0.05.
    """
    low, high = k / n, 1.0
    for _ in range(60):  # bisection to the last bits
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > chance else (low, middle)
    return high


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


def effective_share_interval(share: float, without_each: np.ndarray, size: float) -> tuple[float, float]:
    """Return Wilson's interval of a figure in 0 … 1, with the sample size at which a share would vary as much.

    Like ``mean_share_interval``, with the variance of the jackknife.

    Args:
        share: the figure.
        without_each: what it would be without each sample, float (n,).
        size: to take where it does not vary, since no answer is wrong, or none right.
    """
    variance = jackknife_error(without_each) ** 2
    # what is left of a variance of 0 is rounding
    size = share * (1 - share) / variance if variance > 1e-24 and 0 < share < 1 else size
    return wilson_interval(min(share * size, size), size)


def jackknife_interval(share: float, without_each: np.ndarray) -> tuple[float, float] | None:
    """Return the interval of a figure in 0 … 1 from what it would be without each of n samples.

    The jackknife's variance (Efron and Stein 1981, Annals of Statistics 9), which for ROC-AUC is DeLong's (1988,
    Biometrics 44) but for 1 / n, on the scale of the log odds, where the figure is nearly normal. None at 0 and 1: the
    samples cannot tell how often another one would be ranked wrong.

    Args:
        share: the figure.
        without_each: float (n,), n above 1.
    """
    if not 0 < share < 1:
        return None
    odds = math.log(share / (1 - share))
    half = Z95 * jackknife_error(without_each) / (share * (1 - share))
    return (1 + math.tanh((odds - half) / 2)) / 2, (1 + math.tanh((odds + half) / 2)) / 2


def paired_difference_interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """Return the interval of the second share minus the first, of the same n samples (Bonett and Price 2012).

    It is Wald's with one more sample on either side (J. Educational and Behavioral Statistics 37), and stays wide where
    the two never disagree; a bootstrap would shrink to nothing there.

    Args:
        only_first: samples that are right in the first alone.
        only_second: samples that are right in the second alone.
        n: all samples, above 0.
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = Z95 * math.sqrt((first + second - (second - first) ** 2) / (n + 2))
    return max(-1.0, second - first - half), min(1.0, second - first + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p value of McNemar's exact test (1947): how likely so uneven a disagreement is by chance."""
    return min(1.0, 2 * binomial_cdf(min(only_first, only_second), only_first + only_second, 0.5))


def jackknife_error(without_each: np.ndarray) -> float:
    """Return the standard error of a figure from what it would be without each of n samples, float (n,)."""
    n = len(without_each)
    return math.sqrt((n - 1) / n * float(((without_each - without_each.mean()) ** 2).sum()))


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
