import numpy as np
import pytest

from resnetv2.evaluation.calibration import (
    coverage_curve,
    expected_calibration_error,
    reliability_curve,
)
from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.inference import softmax


def honest(n, classes):
    """Return how sure answers are, and which are right: as many as they say."""
    rng = np.random.default_rng(0)
    probabilities = softmax(2 * rng.normal(size=(n, classes)))
    labels = (probabilities.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def test_the_error_is_the_sum_over_bins_that_defines_it():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_certain_and_right_has_no_error_and_certain_and_wrong_has_all():
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0
    assert expected_calibration_error(np.ones(4), np.zeros(4, bool)) == 1


def test_the_reliability_curve_adds_up_to_the_error():
    rng = np.random.default_rng(1)
    confidence, correct = rng.random(300) ** 0.3, rng.random(300) < 0.7
    curve = reliability_curve(confidence, correct)
    assert sum(line["n"] for line in curve) == 300
    total = sum(line["n"] * abs(line["confidence"] - line["accuracy"]) for line in curve) / 300
    assert total == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-12)
    for line in curve:
        assert line["low"] < line["confidence"] <= line["high"]
        assert line["accuracy_ci95"] == list(wilson_interval(round(line["accuracy"] * line["n"]), line["n"]))


def test_the_coverage_curve_ends_at_all_answers_and_their_accuracy():
    confidence, correct = honest(777, 4)
    curve = coverage_curve(confidence, correct)
    assert [line["coverage"] for line in curve] == sorted({line["coverage"] for line in curve})
    assert curve[-1]["coverage"] == 1
    assert curve[-1]["accuracy"] == correct.mean()
    assert curve[0]["accuracy"] > curve[-1]["accuracy"]
    for line in curve:
        answered = confidence >= line["threshold"]
        assert line["n"] == answered.sum() == round(777 * line["coverage"])
        assert line["accuracy"] == correct[answered].mean()


def test_equal_confidences_are_not_parted():
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.4]), np.array([1, 1, 0, 1, 0], bool)
    assert [line["n"] for line in coverage_curve(confidence, correct)] == [1, 4, 5]
