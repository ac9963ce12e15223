"""Sampling: how often an epoch takes what, and weights of classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from resnetv2.data.sampling import balanced_order, balanced_weights, count_repeats, natural_order, repeated_order

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda x: np.array(x, np.int64))


@given(LABELS, st.integers(0, 9))
def test_balanced_orders_take_every_class_and_each_of_its_pictures_equally_often(labels, seed):
    order = balanced_order(labels, np.random.default_rng(seed))
    assert len(order) == len(labels)
    by_class = np.bincount(labels[order], minlength=6)[np.unique(labels)]
    assert np.ptp(by_class) <= 1
    by_picture = np.bincount(order, minlength=len(labels))
    for label in np.unique(labels):
        assert np.ptp(by_picture[labels == label]) <= 1


@given(LABELS)
def test_natural_orders_take_every_picture_once(labels):
    order = natural_order(labels, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert not count_repeats(order).any()


@given(LABELS, st.integers(0, 9))
def test_repeated_orders_take_a_third_of_the_pictures_three_times_in_a_row(labels, seed):
    order = repeated_order(labels, np.random.default_rng(seed))
    assert len(order) == len(labels)
    runs = [set(order[i : i + 3].tolist()) for i in range(0, len(order), 3)]
    assert all(len(run) == 1 for run in runs)
    assert len(set.union(*runs)) == -(-len(labels) // 3)
    assert count_repeats(order).tolist() == [i % 3 for i in range(len(order))], "each time another view"


@given(st.lists(st.integers(0, 5), max_size=40))
def test_repeats_count_how_often_a_place_came_before(order):
    expected = [order[:i].count(place) for i, place in enumerate(order)]
    assert count_repeats(np.array(order, np.int64)).tolist() == expected


def test_over_many_epochs_every_picture_of_a_large_class_comes():
    labels = np.array([0] * 90 + [1] * 10)
    seen = np.concatenate([balanced_order(labels, np.random.default_rng(i)) for i in range(20)])
    assert set(seen.tolist()) == set(range(100))


@pytest.mark.parametrize("counts", [(10, 10), (90, 10), (1, 2, 3)])
def test_balanced_weights_are_those_of_scikit_learn(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = balanced_weights(labels, len(counts))
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    assert np.array_equal(weights, expected)
    assert np.isclose(weights[labels].mean(), 1)
