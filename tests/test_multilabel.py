import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.evaluation.multilabel import multilabel_report


def answers(n, classes, seed, share=0.3, decimals=1):
    """Return logits with ties that know something of the labels, and labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < share).astype(np.uint8)
    return np.round(2.0 * labels - 1 + rng.normal(size=(n, classes)), decimals), labels


def names(logits):
    return [f"class {i}" for i in range(logits.shape[1])]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 1000))
def test_the_figures_of_each_class_are_scikit_learns_and_none_where_there_are_none(n, classes, seed):
    logits, labels = answers(n, classes, seed)
    report = multilabel_report(logits, labels, names(logits))
    nan = float("nan")
    said = logits >= 0
    scores = sklearn_metrics.precision_recall_fscore_support(labels, said, average=None, zero_division=nan)
    for i, line in enumerate(report["per_class"]):
        expected = dict(zip(("precision", "recall", "f1", "n"), (column[i] for column in scores), strict=True))
        if 0 < labels[:, i].sum() < n:
            expected["roc_auc"] = sklearn_metrics.roc_auc_score(labels[:, i], logits[:, i])
        if labels[:, i].any():
            expected["average_precision"] = sklearn_metrics.average_precision_score(labels[:, i], logits[:, i])
        for name in ("n", "precision", "recall", "f1", "roc_auc", "average_precision"):
            value = expected.get(name, nan)
            assert line[name] == (None if np.isnan(value) else pytest.approx(value, abs=1e-12))
            if line[name] is None:
                assert repr(line["label"]) in report["undefined"][f"per_class.{name}"]


@pytest.mark.parametrize("seed", range(5))
def test_the_averages_are_scikit_learns(seed):
    logits, labels = answers(200, 7, seed)
    report = multilabel_report(logits, labels, names(logits))
    said = logits >= 0
    assert report["map"] == pytest.approx(sklearn_metrics.average_precision_score(labels, logits), abs=1e-12)
    assert report["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits), abs=1e-12)
    exact = sklearn_metrics.accuracy_score(labels, said)
    assert report["exact_match"] == exact
    assert report["exact_match_ci95"] == list(wilson_interval(round(200 * exact), 200))
    for average in ("micro", "macro", "weighted"):
        figures = sklearn_metrics.precision_recall_fscore_support(labels, said, average=average)[:3]
        for name, expected in zip(("precision", "recall", "f1"), figures, strict=True):
            assert report[average][name] == pytest.approx(expected, abs=1e-12), (average, name)
    assert report["undefined"] == {}
    assert json.loads(json.dumps(report, allow_nan=False)) == report  # plain values, ready to be written


def test_an_answer_is_yes_from_one_half_on():
    report = multilabel_report(np.array([[0.0, -1e-9]]), np.array([[1, 0]]), ["a", "b"])
    assert report["exact_match"] == 1


def test_pictures_without_any_label_leave_the_mean_undefined_and_say_why():
    report = multilabel_report(np.array([[-1.0, 2.0], [3.0, -1.0]]), np.zeros((2, 2), np.uint8), ["a", "b"])
    assert (report["map"], report["map_ci95"], report["roc_auc"]) == (None, None, None)
    assert report["undefined"]["map"] == "no picture has any label"
    assert report["undefined"]["per_class.average_precision"] == "no pictures of: 'a', 'b'"
    json.dumps(report, allow_nan=False)


def test_no_label_anywhere_and_none_answered_leaves_f1_undefined_and_says_why():
    report = multilabel_report(np.full((2, 2), -1.0), np.zeros((2, 2), np.uint8), ["a", "b"])
    assert (report["macro"]["f1"], report["macro"]["f1_ci95"]) == (None, None)
    assert report["undefined"]["macro.f1"] == "no class is answered or has pictures"


def test_one_picture_has_figures_and_no_bootstrap():
    report = multilabel_report(np.array([[1.0, -1.0]]), np.array([[1, 0]]), ["a", "b"])
    assert (report["map"], report["map_ci95"]) == (1.0, None)
    assert report["undefined"]["map_ci95"] == "an interval needs two pictures"


def test_the_interval_covers_the_truth_in_95_of_100_draws():
    many, labels = answers(400_000, 1, seed=1, decimals=9)
    truth = sklearn_metrics.average_precision_score(labels, many)
    covered = 0
    for seed in range(2_000):
        logits, labels = answers(400, 1, 10 + seed, decimals=9)
        low, high = multilabel_report(logits, labels, names(logits))["map_ci95"]
        covered += low <= truth <= high
    assert covered / 2_000 == pytest.approx(0.95, abs=0.01)
