import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from resnetv2.evaluation.metrics import classification_report, confusion_matrix, top_k_correct, wilson_interval

COUNTS = st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def answers(n, classes, seed=0):
    """Return logits with many ties, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (n, classes)).astype(np.float32), rng.integers(0, classes, n)


# --- the interval ---


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
    assert report["per_class"][8] == {"label": "8", "n": 1, "recall": 0.0}
