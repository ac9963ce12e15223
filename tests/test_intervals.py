import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.evaluation.intervals import (
    bca_interval,
    binomial_cdf,
    binomial_upper_bound,
    bootstrap_intervals,
    mean_share_interval,
    resamples,
    wilson_interval,
)

COUNTS = st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# --- Wilson ---


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),  # the same
        (0, 20, 0.0000, 0.1611),  # the same
        (1, 29, 0.0061, 0.1718),  # the same
    ],
)
def test_the_interval_is_the_published_one(correct, n, low, high):
    assert [round(bound, 4) for bound in wilson_interval(correct, n)] == [low, high]


@given(COUNTS)
def test_the_interval_lies_in_0_to_1_and_holds_the_share(counts):
    correct, n = counts
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert high - low > 0
    assert (low == 0) == (correct == 0)
    assert (high == 1) == (correct == n)


@given(COUNTS)
def test_the_interval_of_the_errors_is_the_mirror_image(counts):
    correct, n = counts
    low, high = wilson_interval(correct, n)
    # a handful of roundings of numbers up to 1
    assert wilson_interval(n - correct, n) == pytest.approx((1 - high, 1 - low), abs=1e-14)


@given(COUNTS)
def test_the_bounds_solve_the_equation_that_defines_them(counts):
    correct, n = counts
    z = 1.959963984540054
    for bound in wilson_interval(correct, n):
        # |share - p| = z sqrt(p (1 - p) / n), squared; near 0 and 1 both sides are of the size of 1/n²
        left, right = (correct / n - bound) ** 2, z * z * bound * (1 - bound) / n
        assert math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-15)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (1, 0), (-1, 3), (4, 3), (0, -1), (-2, -1)])
def test_counts_that_cannot_be_are_refused(correct, n):
    with pytest.raises(ValueError, match="expected 0 <= correct <= n and n > 0"):
        wilson_interval(correct, n)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.93])
def test_the_interval_covers_the_true_share_about_as_often_as_it_says(share):
    n = 100
    covers = [low <= share <= high for low, high in (wilson_interval(correct, n) for correct in range(n + 1))]
    chances = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    # Counts are whole, so coverage swings about 95 %: for n = 100 it stays in 91 … 99 % (Brown, Cai, DasGupta 2001)
    assert 0.91 <= sum(chance for chance, covered in zip(chances, covers, strict=True) if covered) <= 0.99


# --- the mean of shares ---


@given(st.integers(1, 10**5).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_mean_of_one_share_has_wilsons_interval(counts):
    hits, n = counts
    expected = wilson_interval(hits, n)
    # the variance is that of n - 1, as the mean of several shares needs it
    tolerance = 0 if hits in (0, n) else 1.5 * (expected[1] - expected[0]) / n
    assert mean_share_interval(np.array([hits]), np.array([n])) == pytest.approx(expected, abs=tolerance + 1e-12)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda t: (min(t), t[1])), min_size=1))
def test_the_interval_of_a_mean_lies_in_0_to_1_and_holds_it(counts):
    hits, n = np.array(counts).T
    low, high = mean_share_interval(hits, n)
    assert 0 <= low <= (hits / n).mean() + 1e-12
    assert (hits / n).mean() - 1e-12 <= high <= 1
    assert high > low


@pytest.mark.parametrize(
    ("n", "shares"),
    [
        ([36] * 10, np.linspace(0.8, 1, 10)),
        ([200, 100, 50, 20], [0.9, 0.8, 0.7, 0.6]),
        ([300, 300], [0.9, 0.7]),
        ([5] * 100, np.linspace(0.3, 0.95, 100)),
        ([50] * 1000, np.linspace(0.4, 1, 1000)),
    ],
)
def test_the_interval_of_a_mean_covers_it_in_95_of_100_draws(n, shares):
    rng, n, shares = np.random.default_rng(0), np.array(n), np.array(shares)
    intervals = [mean_share_interval(hits, n) for hits in rng.binomial(n, shares, (2_000, len(n)))]
    coverage = np.mean([low <= shares.mean() <= high for low, high in intervals])
    assert coverage == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("n", "shares"), [([36] * 10, [0.98] * 10), ([20, 20, 20], [0.7, 0.9, 0.95])])
def test_the_interval_of_a_mean_near_1_covers_it_rather_too_often(n, shares):
    rng, n, shares = np.random.default_rng(0), np.array(n), np.array(shares)
    intervals = [mean_share_interval(hits, n) for hits in rng.binomial(n, shares, (2_000, len(n)))]
    # a handful of mistakes come in whole numbers, see above
    assert 0.95 <= np.mean([low <= shares.mean() <= high for low, high in intervals]) <= 0.97


# --- the bootstrap ---


def test_resamples_hold_each_sample_as_often_as_it_was_drawn():
    counts = np.concatenate(list(resamples(40, draws=5_000)))
    assert counts.shape == (5_000, 40)
    assert (counts.sum(axis=1) == 40).all()
    # each is binomial(40, 1/40): mean 1, variance 39/40; five standard errors
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * (39 / 40 / 5_000) ** 0.5
    assert counts.var() == pytest.approx(39 / 40, rel=0.02)


def test_resamples_are_the_same_each_time_and_others_with_another_seed():
    first, again, other = (np.concatenate(list(resamples(1_000, 200, seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_bootstrap_agrees_with_scipys():
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).exponential(size=60)
    ours = bootstrap_intervals(values[:, None], {"mean": lambda means: means[..., 0]}, draws=20_000)["mean"]
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    width = theirs.high - theirs.low
    # two sets of 20,000 draws: each bound has a standard error of about 1 % of the width
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)


def test_what_does_not_vary_has_an_interval_of_no_width():
    bounds = bootstrap_intervals(np.full((9, 1), 0.25), {"mean": lambda means: means[..., 0]})["mean"]
    assert bounds == pytest.approx((0.25, 0.25), abs=1e-15)  # nine quarters over nine, rounded


def test_the_bounds_are_corrected_for_skewness():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=40)
    drawn = rng.choice(values, (4_000, 40)).mean(axis=1)
    without_one = (values.sum() - values) / 39
    low, high = bca_interval(drawn, values.mean(), without_one)
    assert low > np.quantile(drawn, 0.025), "a mean of a few large values is more often too low than too high"
    assert high > np.quantile(drawn, 0.975)


FIGURES = {
    "mae": (lambda means: means[..., 0], (2 / np.pi) ** 0.5),
    "rmse": (lambda means: np.sqrt(means[..., 1]), 1),
    "r2": (lambda means: 1 - means[..., 1] / (means[..., 3] - means[..., 2] ** 2), 0.75),
}


def test_the_bootstrap_covers_the_truth_in_95_of_100_draws():
    rng, n = np.random.default_rng(0), 250
    covered = dict.fromkeys(FIGURES, 0)
    for seed in range(2_000):
        errors, targets = rng.normal(size=n), 2 * rng.normal(size=n)
        columns = np.stack([np.abs(errors), errors**2, targets, targets**2], axis=1)
        figures = {name: figure for name, (figure, _) in FIGURES.items()}
        for name, (low, high) in bootstrap_intervals(columns, figures, draws=200, seed=seed).items():
            covered[name] += low <= FIGURES[name][1] <= high
    for name, times in covered.items():
        assert times / 2_000 == pytest.approx(0.95, abs=0.01), name


# --- exact bounds ---


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.001, 0.999))
def test_the_binomial_distribution_is_scipys(counts, p):
    from scipy.stats import binom

    k, n = counts
    # far out SciPy is the one that strays: by 1.6e-9 at (13, 1255, 0.4375), where exact fractions agree with ours
    assert binomial_cdf(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-9, abs=1e-100)


@pytest.mark.parametrize(("k", "n", "p"), [(13, 1255, 0.4375), (0, 900, 0.5), (700, 900, 0.875)])
def test_the_binomial_distribution_is_the_exact_sum(k, n, p):
    share = Fraction(p)
    exact = sum(comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1))
    assert binomial_cdf(k, n, p) == pytest.approx(float(exact), rel=1e-12)  # a thousand float64 terms


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 299), (3, 60), (59, 60), (60, 60), (500, 50_000)])
def test_the_upper_bound_is_scipys(k, n):
    from scipy.stats import binomtest

    expected = binomtest(k, n).proportion_ci(0.9, "exact").high  # 5 % on either side
    assert binomial_upper_bound(k, n, 0.05) == pytest.approx(expected, abs=1e-12)
