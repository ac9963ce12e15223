"""Rankings: what they are worth, and how sure that is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from resnetv2.evaluation.intervals import jackknife_interval
from resnetv2.evaluation.ranking import Ranking


def scores(n, seed, decimals=1, share=0.4):
    """Return scores with ties that know something of what is positive, and that."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    return np.round(positive + rng.normal(size=n), decimals), positive


@settings(max_examples=25)  # each asks scikit-learn for a hundred figures
@given(st.integers(4, 50), st.integers(0, 1000), st.sampled_from([0, 1, 9]))
def test_leaving_a_sample_out_gives_the_figure_of_the_others(n, seed, decimals):
    values, positive = scores(n, seed, decimals)
    positive[:4] = [True, True, False, False]  # so that each figure is defined without any one of them
    ranking = Ranking.of(values, positive)
    rest = [(np.delete(positive, i), np.delete(values, i)) for i in range(n)]
    # sums in another order: float64 rounds 50 terms differently
    np.testing.assert_allclose(ranking.roc_auc_without_each(), [roc_auc_score(*r) for r in rest], rtol=0, atol=1e-12)
    expected = [average_precision_score(*r) for r in rest]
    np.testing.assert_allclose(ranking.average_precision_without_each(), expected, rtol=0, atol=1e-12)


def test_without_the_only_sample_of_its_kind_the_figure_stays_what_it_is():
    values, positive = np.array([3.0, 2, 1]), np.array([False, True, False])
    ranking = Ranking.of(values, positive)
    assert ranking.roc_auc_without_each()[1] == ranking.roc_auc() == 0.5
    assert ranking.average_precision_without_each()[1] == ranking.average_precision() == 0.5


@pytest.mark.parametrize("figure", ["roc_auc", "average_precision"])
@pytest.mark.parametrize("n", [100, 400])
def test_the_interval_covers_the_truth_in_95_of_100_draws(figure, n):
    if figure == "roc_auc":
        truth = norm.cdf(1 / 2**0.5)  # the chance that N(1, 1) is above N(0, 1)
    else:
        many, positive = scores(1_000_000, 1, decimals=9)
        truth = average_precision_score(positive, many)
    covered = 0
    for seed in range(2_000):
        ranking = Ranking.of(*scores(n, 10 + seed, decimals=9))
        low, high = jackknife_interval(getattr(ranking, figure)(), getattr(ranking, f"{figure}_without_each")())
        covered += low <= truth <= high
    assert covered / 2_000 == pytest.approx(0.95, abs=0.01)


def test_a_faultless_ranking_has_no_interval():
    ranking = Ranking.of(np.array([3.0, 2, 1, 0]), np.array([True, True, False, False]))
    assert jackknife_interval(ranking.roc_auc(), ranking.roc_auc_without_each()) is None
