import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from resnetv2.evaluation.regression import regression_report


def answers(n, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    targets = offset + 3 * rng.normal(size=n)
    return (targets + rng.normal(size=n))[:, None], targets


@given(st.integers(3, 60), st.integers(0, 1000), st.sampled_from([0.0, 1e4]))
def test_the_figures_are_scikit_learns(n, seed, offset):
    given_, targets = answers(n, seed, offset)
    report = regression_report(given_, targets)
    said = given_[:, 0]
    assert report["n"] == n
    assert report["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(targets, said), abs=1e-12)
    assert report["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(targets, said), abs=1e-12)
    assert report["r2"] == pytest.approx(sklearn_metrics.r2_score(targets, said), rel=1e-12, abs=1e-12)
    assert report["bias"] == pytest.approx((said - targets).mean(), abs=1e-12)
    for share, size in report["error_quantiles"].items():
        assert size == np.quantile(np.abs(said - targets), float(share))
    assert report["undefined"] == {}
    assert json.loads(json.dumps(report, allow_nan=False)) == report  # plain values, ready to be written


def test_each_interval_holds_its_figure():
    report = regression_report(*answers(300))
    for name in ("mae", "rmse", "r2", "bias"):
        low, high = report[f"{name}_ci95"]
        assert low < report[name] < high, name


def test_float32_answers_of_one_column_or_none_give_the_same():
    given_, targets = answers(20)
    narrow = given_.astype(np.float32)
    assert regression_report(narrow, targets) == regression_report(narrow[:, 0], targets)


@pytest.mark.parametrize(("n", "reason"), [(5, "all targets are the same"), (1, "all targets are the same")])
def test_equal_targets_leave_r2_undefined_and_say_why(n, reason):
    report = regression_report(np.arange(n, dtype=float)[:, None], np.full(n, 0.1))
    assert (report["r2"], report["r2_ci95"], report["undefined"]["r2"]) == (None, None, reason)
    assert report["mae"] == pytest.approx(np.abs(np.arange(n) - 0.1).mean(), abs=1e-15)
    assert (report["mae_ci95"] is None) == (n == 1)
    json.dumps(report, allow_nan=False)


def test_answers_without_errors_have_no_error():
    targets = np.array([1.0, 2.0, 4.0])
    report = regression_report(targets[:, None], targets)
    assert (report["mae"], report["rmse"], report["r2"], report["bias"]) == (0, 0, 1, 0)
    assert report["r2_ci95"] == [1, 1]
