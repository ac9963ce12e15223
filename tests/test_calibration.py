import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from resnetv2.errors import DataError
from resnetv2.evaluation.calibration import (
    coverage_curve,
    find_threshold,
    fit_temperature,
)
from resnetv2.inference import softmax


def confidence_of(logits, labels):
    """Return how sure answers are, and which are right."""
    return softmax(logits).max(axis=1), logits.argmax(axis=1) == labels


def honest(n, classes, temperature, seed=0, spread=2.0):
    """Return logits that are ``temperature`` times what they should be, and labels drawn from what they should be."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(n, classes))
    labels = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return temperature * logits, labels


# --- temperature ---


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0, 40.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    logits, labels = honest(20_000, 5, temperature)
    found = fit_temperature(logits, labels)
    assert found.interval[0] < temperature < found.interval[1]
    assert found.value == pytest.approx(temperature, rel=0.03)  # the interval is 2 % wide to either side
    assert found.n == 20_000


@given(st.integers(20, 300), st.integers(2, 9), st.floats(0.1, 10), st.integers(0, 1000))
def test_no_temperature_has_a_lower_log_loss(n, classes, temperature, seed):
    logits, labels = honest(n, classes, temperature, seed)

    def log_loss(log_temperature):
        return -np.log(softmax(logits / np.exp(log_temperature))[np.arange(n), labels]).mean()

    try:
        found = fit_temperature(logits, labels)
    except DataError:  # all right, or no better than chance
        assert (logits.argmax(axis=1) == labels).all() or log_loss(50) <= log_loss(4)
        return
    peer = minimize_scalar(log_loss, bracket=(np.log(found.value) - 1, np.log(found.value) + 1))
    assert found.log_loss_after <= peer.fun + 1e-12
    assert found.log_loss_after == pytest.approx(log_loss(np.log(found.value)), abs=1e-12)
    assert found.log_loss_before == pytest.approx(log_loss(0.0), abs=1e-12)
    assert np.log(found.value) == pytest.approx(peer.x, abs=1e-4 * max(1, abs(peer.x)))  # the minimum is flat


def test_the_interval_of_the_temperature_covers_it_in_95_of_100_draws():
    covered = 0
    for seed in range(2_000):
        low, high = fit_temperature(*honest(200, 3, 1.7, seed)).interval
        covered += low <= 1.7 <= high
    assert covered / 2_000 == pytest.approx(0.95, abs=0.01)


def test_answers_that_are_all_right_teach_no_temperature():
    logits = np.eye(3)[[0, 1, 2, 1]]
    with pytest.raises(DataError, match="every answer is right on these 4 pictures"):
        fit_temperature(logits, np.array([0, 1, 2, 1]))


def test_answers_no_better_than_chance_teach_no_temperature():
    logits = np.eye(3)[[0, 1, 2, 1]]
    with pytest.raises(DataError, match="no better than chance"):
        fit_temperature(logits, np.array([1, 2, 0, 0]))


def test_large_logits_do_not_overflow():
    logits, labels = honest(500, 4, 1e6)
    found = fit_temperature(logits, labels)
    assert found.value == pytest.approx(1e6, rel=0.2)
    assert np.isfinite(found.log_loss_before)


# --- answering only what is certain enough ---


def test_the_coverage_curve_ends_at_all_answers_and_their_accuracy():
    confidence, correct = confidence_of(*honest(777, 4, 1.0))
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


def test_the_threshold_answers_what_reaches_it_and_no_more():
    confidence, correct = confidence_of(*honest(5_000, 4, 1.0, spread=4.0))
    found = find_threshold(confidence, correct, 0.05)
    answered = confidence >= found.value
    assert found.answered == answered.sum()
    assert found.errors == (~correct[answered]).sum()
    assert found.errors / found.answered < found.bound <= 0.05
    assert found.answered < 5_000
    assert correct.mean() < 0.95, "else this shows nothing"


@pytest.mark.parametrize("error_rate", [0.05, 0.1])
def test_the_promise_is_broken_by_at_most_5_of_100_calibrations(error_rate):
    many = confidence_of(*honest(400_000, 4, 1.0, seed=1, spread=4.0))
    order = np.argsort(-many[0])
    ranked, risk = many[0][order], (~many[1][order]).cumsum() / np.arange(1, len(order) + 1)
    broken = refused = 0
    for seed in range(1_000):
        try:
            found = find_threshold(*confidence_of(*honest(600, 4, 1.0, 10 + seed, spread=4.0)), error_rate)
        except DataError:
            refused += 1
            continue
        true = risk[np.searchsorted(-ranked, -found.value, side="right") - 1]
        broken += true > error_rate
    # 5 % and two standard errors of 1,000 draws
    assert refused < 50, "a threshold exists, and is nearly always found"
    assert broken / 1_000 <= 0.05 + 2 * (0.05 * 0.95 / 1_000) ** 0.5


def test_too_few_pictures_say_how_many_are_needed_and_what_they_can_show():
    with pytest.raises(DataError, match=r"1\.00% takes 299 pictures to show and there are 100, with which 2\.95% is"):
        find_threshold(np.ones(100), np.ones(100, bool), 0.01)
    assert find_threshold(np.ones(299), np.ones(299, bool), 0.01).answered == 299


def test_a_rate_that_cannot_be_promised_is_refused_with_the_count():
    confidence, correct = np.linspace(1, 0.5, 400), np.ones(400, bool)
    correct[:8] = False
    with pytest.raises(DataError, match=r"cannot be promised: even of the \d+ most confident answers, 8 are wrong"):
        find_threshold(confidence, correct, 0.05)
