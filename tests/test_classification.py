import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from resnetv2.evaluation.classification import (
    classification_report,
    confusion_matrix,
    smallest_difference,
    top_k_correct,
)
from resnetv2.evaluation.figures import FIGURES, read_figure
from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.inference import softmax


def answers(n, classes, seed=0):
    """Return logits with many ties, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (n, classes)).astype(np.float32), rng.integers(0, classes, n)


# --- top-k ---


def test_top_k_counts_the_true_classes_among_the_k_highest():
    logits = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 0, 3, 2]], np.float32)
    labels = np.array([0, 0, 3])
    assert [top_k_correct(logits, labels, k) for k in (1, 2, 3, 4)] == [1, 2, 2, 3]


def test_ties_go_to_the_lower_class():
    logits = np.zeros((3, 3), np.float32)
    labels = np.array([0, 1, 2])
    assert [top_k_correct(logits, labels, k) for k in (1, 2, 3)] == [1, 2, 3]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_top_k_agrees_with_sorting_and_top_1_with_argmax(n, classes, seed):
    logits, labels = answers(n, classes, seed)
    order = np.argsort(-logits, axis=1, kind="stable")
    for k in range(1, classes + 2):
        assert top_k_correct(logits, labels, k) == (order[:, :k] == labels[:, None]).any(axis=1).sum()
    assert top_k_correct(logits, labels, 1) == (logits.argmax(axis=1) == labels).sum()


def test_top_k_agrees_with_scikit_learn_where_nothing_ties():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 10)), rng.integers(0, 10, 200)
    for k in range(1, 10):
        expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, normalize=False, labels=range(10))
        assert top_k_correct(logits, labels, k) == expected


# --- confusion and recall ---


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
def test_the_confusion_matrix_is_scikit_learns(n, classes, seed):
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, classes, n), rng.integers(0, classes, n)
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(classes))
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, classes), expected)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
def test_the_recall_of_each_class_is_scikit_learns_and_none_where_there_is_no_picture(n, classes, seed):
    logits, labels = answers(n, classes, seed)
    names = [f"class {i}" for i in range(classes)]
    report = classification_report(logits, labels, names)
    nan = float("nan")
    expected = sklearn_metrics.recall_score(
        labels, logits.argmax(axis=1), labels=range(classes), average=None, zero_division=nan
    )
    for i, line in enumerate(report["per_class"]):
        assert line["label"] == names[i]
        assert line["n"] == (labels == i).sum()
        assert line["recall"] == (None if line["n"] == 0 else expected[i])


# --- the report ---


@pytest.mark.parametrize(("classes", "there"), [(1, False), (2, False), (5, False), (6, True), (20, True)])
def test_top_5_is_given_where_there_are_more_than_five_classes(classes, there):
    logits, labels = answers(50, classes)
    top5 = classification_report(logits, labels, list(map(str, range(classes))))["top5"]
    assert top5 == (top_k_correct(logits, labels, 5) / 50 if there else None)


def test_top_5_has_its_interval():
    logits, labels = answers(50, 9)
    report = classification_report(logits, labels, list(map(str, range(9))))
    assert report["top5_ci95"] == list(wilson_interval(round(50 * report["top5"]), 50))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
def test_the_figures_of_a_report_agree_with_each_other(n, classes, seed):
    logits, labels = answers(n, classes, seed)
    report = classification_report(logits, labels, list(map(str, range(classes))))
    confusion = np.array(report["confusion"])
    correct = confusion.trace()
    assert report["n"] == n == confusion.sum()
    assert report["top1"] == correct / n
    assert report["top1_ci95"] == list(wilson_interval(int(correct), n))
    assert [line["n"] for line in report["per_class"]] == confusion.sum(axis=1).tolist()
    assert json.loads(json.dumps(report, allow_nan=False)) == report  # plain values, ready to be written


def test_a_perfect_and_a_useless_classifier():
    labels = np.array([0, 1, 2, 0])
    perfect = classification_report(np.eye(3)[labels], labels, ["a", "b", "c"])
    assert (perfect["top1"], perfect["top1_ci95"][1]) == (1.0, 1.0)
    assert [line["recall"] for line in perfect["per_class"]] == [1.0, 1.0, 1.0]
    useless = classification_report(np.eye(3)[(labels + 1) % 3], labels, ["a", "b", "c"])
    assert (useless["top1"], useless["top1_ci95"][0]) == (0.0, 0.0)


def test_classes_by_the_thousand_have_no_confusion_and_the_same_figures():
    logits = np.zeros((3, 21843), np.float32)
    logits[[0, 1, 2], [5, 21842, 7]] = 1
    report = classification_report(logits, np.array([5, 21842, 8]), list(map(str, range(21843))))
    assert report["top1"] == 2 / 3
    assert report["confusion"] is None
    assert report["roc_auc"] is None
    assert {"confusion", "roc_auc", "average_precision"} < report["undefined"].keys()
    assert {name: report["per_class"][8][name] for name in ("label", "n", "recall")} == {
        "label": "8",
        "n": 1,
        "recall": 0.0,
    }


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_scikit_learns(classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(150, classes)).astype(np.float32), rng.integers(0, classes, 150)
    logits = np.round(logits, 1)  # ties, within a picture and between pictures
    report = classification_report(logits, labels, list(map(str, range(classes))))
    p, said, every = softmax(logits), logits.argmax(axis=1), range(classes)
    expected = {
        "top1": sklearn_metrics.accuracy_score(labels, said),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, said),
        "log_loss": sklearn_metrics.log_loss(labels, p, labels=every),
        "brier": sklearn_metrics.brier_score_loss(labels, p[:, 1] if classes == 2 else p),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, p[:, 1] if classes == 2 else p, multi_class="ovr"),
        "average_precision": sklearn_metrics.average_precision_score(labels, p[:, 1] if classes == 2 else p),
    }
    for name, value in expected.items():
        assert report[name] == pytest.approx(value, abs=1e-12), name
    for average in ("macro", "weighted"):
        figures = sklearn_metrics.precision_recall_fscore_support(labels, said, average=average)[:3]
        assert [report[average][name] for name in ("precision", "recall", "f1")] == pytest.approx(figures, abs=1e-12)
    for i, line in enumerate(report["per_class"]):
        assert line["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels == i, p[:, i]), abs=1e-12)
        precision = sklearn_metrics.average_precision_score(labels == i, p[:, i])
        assert line["average_precision"] == pytest.approx(precision, abs=1e-12)
    assert not set(report["undefined"]) - {"top5"}


@pytest.mark.parametrize(
    "figure",
    [key for key, *_ in FIGURES["classification"] if key != "ece"],  # chance alone makes that one too high
)
def test_each_interval_holds_its_figure(figure):
    logits, labels = answers(80, 9)
    report = classification_report(logits, labels, list(map(str, range(9))))
    value, (low, high) = read_figure(report, figure)
    assert low < value < high


def test_what_the_data_leaves_undefined_is_none_and_says_why():
    logits = np.array([[3.0, 1, 0], [2, 0, 1], [4, 0, 0]])
    report = classification_report(logits, np.array([0, 0, 0]), ["a", "b", "c"])
    assert report["per_class"][1] == {
        "label": "b",
        "n": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "roc_auc": None,
        "average_precision": None,
    }
    assert report["undefined"] == {
        "top5": "with five classes or fewer, every answer is among the five highest",
        "per_class.precision": "never answered: 'b', 'c'",
        "per_class.recall": "no pictures of: 'b', 'c'",
        "per_class.f1": "neither answered nor pictures of: 'b', 'c'",
        "per_class.roc_auc": "pictures with and without it are needed: 'a', 'b', 'c'",
        "per_class.average_precision": "no pictures of: 'b', 'c'",
        "roc_auc": "pictures with and without it are needed: 'a', 'b', 'c'",
        "roc_auc_ci95": "pictures with and without it are needed: 'a', 'b', 'c'",
        "average_precision_ci95": "no picture is ranked wrong: these cannot tell how often one would be",
    }
    assert report["average_precision"] == 1.0
    assert report["balanced_accuracy"] == 1.0


def test_probabilities_that_round_to_0_have_a_finite_log_loss():
    report = classification_report(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([1, 1]), ["a", "b"])
    assert report["log_loss"] == 500
    assert report["brier"] == 0.5


def test_one_picture_has_figures_and_no_bootstrap():
    report = classification_report(np.array([[1.0, 0.0]]), np.array([0]), ["a", "b"])
    assert (report["top1"], report["log_loss_ci95"]) == (1, None)
    assert report["undefined"]["log_loss_ci95"] == "an interval needs two pictures"
    json.dumps(report, allow_nan=False)


# --- what n can show ---


def test_no_mistakes_need_six_of_another_model():
    from scipy.stats import binomtest

    assert binomtest(0, 6).pvalue < 0.05 < binomtest(0, 5).pvalue
    assert smallest_difference(360, 360)["smallest_difference"] == 6 / 360


def test_a_difference_of_that_size_is_just_told_from_chance_where_no_mistake_is_shared():
    from scipy.stats import norm

    n, correct = 10_000, 9_000
    difference = smallest_difference(correct, n)["smallest_difference"]
    apart = 2 * (n - correct)  # pictures on which two models with as many mistakes disagree, at most
    assert 2 * norm.sf(difference * n / apart**0.5) == pytest.approx(0.05, abs=1e-9)


def test_the_sentence_names_n_and_the_difference():
    note = smallest_difference(90, 100)["note"]
    assert "With 100 pictures" in note
    assert "8.8%" in note
