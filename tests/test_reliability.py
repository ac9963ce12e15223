import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.evaluation.reliability import (
    calibration_error_interval,
    expected_calibration_error,
    reliability_curve,
)
from resnetv2.inference import softmax


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


# --- its interval ---


def answers(n, sureness, seed):
    """Return probabilities of answers, logits ``sureness`` times too large, and how often each is right."""
    logits = 2 * np.random.default_rng(seed).normal(size=(n, 10))
    exact = softmax(logits)
    said = exact.argmax(axis=1)
    return softmax(sureness * logits).max(axis=1), exact[np.arange(n), said]


def true_error(sureness):
    return expected_calibration_error(*answers(1_000_000, sureness, 99))


@pytest.mark.parametrize(("n", "sureness"), [(360, 1.0), (100, 1.3), (500, 0.7)])
def test_the_interval_covers_the_true_error_about_as_often_as_it_says(n, sureness):
    truth = true_error(sureness) if sureness != 1 else 0.0
    covered = []
    for seed in range(500):
        confidence, chance = answers(n, sureness, seed)
        correct = np.random.default_rng([seed, 1]).random(n) < chance
        low, high = calibration_error_interval(confidence, correct, draws=200)
        covered.append(low <= truth <= high)
    # The family of truths that it searches is one of many, and bins hold few pictures: see the docstring.
    # The standard error of 500 draws is 1 %.
    assert 0.92 <= np.mean(covered) <= 0.98


def test_exact_probabilities_have_an_interval_from_0_where_the_error_alone_would_not():
    confidence, chance = answers(500, 1.0, 0)
    correct = np.random.default_rng(1).random(500) < chance
    assert expected_calibration_error(confidence, correct) > 0.02, "chance moves every bin"
    assert calibration_error_interval(confidence, correct)[0] == 0


@given(st.integers(1, 60), st.integers(0, 1000))
def test_the_interval_lies_in_0_to_1_however_few_the_pictures(n, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(n), rng.random(n) < rng.random()
    low, high = calibration_error_interval(confidence, correct, draws=100)
    assert 0 <= low <= high <= 1


def test_sure_and_always_right_says_how_often_it_may_yet_be_wrong():
    low, high = calibration_error_interval(np.ones(50), np.ones(50, bool))
    assert low == 0
    # at half weight of ties, 50 right of 50 have a chance of 5 % if each has one of 0.05 ^ (1 / 50) = 0.942
    assert high == pytest.approx(1 - 0.942, abs=0.005)


def test_the_interval_is_the_same_each_time():
    confidence, chance = answers(300, 1.4, 0)
    correct = chance > 0.5
    assert calibration_error_interval(confidence, correct) == calibration_error_interval(confidence, correct)
