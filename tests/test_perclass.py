"""Averages over classes: what they are without one picture, and how sure they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from resnetv2.evaluation.intervals import jackknife_error, mean_share_interval, wilson_interval
from resnetv2.evaluation.perclass import SHARES, Cases, Counts


def single(n, classes, seed, mistakes=0.3):
    """Return answers and labels int (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return np.where(rng.random(n) < mistakes, rng.integers(0, classes, n), labels), labels


def several(n, classes, seed):
    """Return answers and labels bool (N, K)."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, classes)) < 0.4
    return labels ^ (rng.random((n, classes)) < 0.2), labels


def width(interval):
    return interval[1] - interval[0]


@settings(max_examples=20)  # each asks scikit-learn for hundreds of figures
@given(st.integers(6, 40), st.integers(2, 5), st.integers(0, 1000), st.booleans())
def test_the_intervals_are_those_of_the_figures_without_each_picture(n, classes, seed, is_single):
    answers, labels = (single if is_single else several)(n, classes, seed)
    cases = (Cases.of_answers if is_single else Cases.of_sets)(answers, labels)
    counts = Counts.of(cases, classes)
    averages = counts.averages(cases) | ({} if is_single else {"micro": counts.micro(cases)})
    given_classes = {"labels": range(classes)} if is_single else {}

    def ask(average, rows):
        return precision_recall_fscore_support(
            labels[rows], answers[rows], average=average, zero_division=np.nan, **given_classes
        )[:3]

    for average, figures in averages.items():
        expected = ask(average, np.arange(n))
        rest = np.array([ask(average, np.delete(np.arange(n), i)) for i in range(n)])
        for j, name in enumerate(SHARES):
            share, interval = figures[name], figures[f"{name}_ci95"]
            assert share == pytest.approx(expected[j], abs=1e-12)
            error = jackknife_error(np.where(np.isnan(rest[:, j]), share, rest[:, j]))
            if error > 1e-9 and 0 < share < 1:
                size = share * (1 - share) / error**2
                # Wilson's bounds of a size that was computed from sums in another order
                assert interval == pytest.approx(wilson_interval(share * size, size), abs=1e-7), (average, name)


def test_a_faultless_answer_has_an_interval_below_1():
    labels = np.repeat(np.arange(4), 10)
    cases = Cases.of_answers(labels, labels)
    averages = Counts.of(cases, 4).averages(cases)
    assert averages["macro"]["f1"] == 1
    assert averages["macro"]["f1_ci95"] == pytest.approx(mean_share_interval(np.full(4, 10), np.full(4, 10)))
    assert averages["weighted"]["f1_ci95"] == pytest.approx(wilson_interval(40, 40))


@pytest.mark.parametrize(
    ("n", "chances"),
    [
        (360, [0.95] * 5 + [0.85] * 5),
        (300, [0.9, 0.7, 0.6]),
        (150, [0.9, 0.8, 0.7, 0.6, 0.5]),
    ],
)
@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_the_interval_of_f1_covers_it_in_95_of_100_draws(n, chances, average):
    classes = len(chances)
    wrong = (1 - np.array(chances)) / (classes - 1)
    table = np.where(np.eye(classes, dtype=bool), np.array(chances)[:, None], wrong[:, None])
    table *= np.linspace(1, 2, classes)[:, None]  # some classes have twice the pictures of others
    table /= table.sum()
    f1 = 2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))
    truth = np.average(f1, weights=table.sum(axis=1) if average == "weighted" else None)
    rng, covered = np.random.default_rng(0), []
    for _ in range(2_000):
        labels, answers = np.divmod(rng.choice(classes**2, n, p=table.ravel()), classes)
        cases = Cases.of_answers(answers, labels)
        low, high = Counts.of(cases, classes).averages(cases)[average]["f1_ci95"]
        covered.append(low <= truth <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
