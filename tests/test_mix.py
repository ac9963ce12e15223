"""Mixup and CutMix against their papers' definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from resnetv2.training.mix import Mix, rectangle

ALPHAS = st.floats(0.05, 5)


def batch(size, side=8, classes=5):
    """Return pictures each of one value of its own, their labels, and those values."""
    values = torch.arange(1, size + 1, dtype=torch.float32)
    pictures = values.view(-1, 1, 1, 1).expand(size, 3, side, side).contiguous(memory_format=torch.channels_last)
    return pictures, torch.arange(size) % classes, values


@given(st.integers(1, 9), ALPHAS | st.just(0.0), ALPHAS, st.integers(0, 2**32))
def test_soft_labels_sum_to_one_and_the_range_of_values_is_kept(size, mixup, cutmix, seed):
    pictures, labels, values = batch(size)
    for mix in (Mix(mixup, cutmix, 5), Mix(cutmix, mixup, 5)):
        mixed, soft = mix(pictures, labels, np.random.default_rng(seed))
        assert mixed.shape == pictures.shape
        assert mixed.dtype == torch.float32
        assert soft.shape == (size, 5)
        # two shares of one, each rounded to float32
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(size), rtol=0, atol=1e-6)
        assert soft.min() >= 0
        assert mixed.min() >= values.min() - 1e-5  # likewise
        assert mixed.max() <= values.max() + 1e-5


@given(st.integers(2, 9), ALPHAS, st.integers(0, 2**32))
def test_mixup_adds_two_pictures_and_their_labels_in_one_share(size, alpha, seed):
    pictures, labels, values = batch(size)
    mixed, soft = Mix(alpha, 0, 5)(pictures, labels, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    share, others = rng.beta(alpha, alpha), torch.from_numpy(rng.permutation(size))
    expected = share * values + (1 - share) * values[others]
    torch.testing.assert_close(mixed, expected.view(-1, 1, 1, 1).expand_as(mixed))
    one_hot = F.one_hot(labels, 5).float()
    torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot[others])


@given(st.integers(2, 9), st.integers(4, 12), ALPHAS, st.integers(0, 2**32))
def test_cutmix_labels_are_the_shares_of_the_pixels(size, side, alpha, seed):
    pictures, labels, values = batch(size, side)
    mixed, soft = Mix(0, alpha, 5)(pictures, labels, np.random.default_rng(seed))
    for picture, target in zip(mixed, soft, strict=True):
        shares = torch.zeros(5)
        for value, count in zip(*torch.unique(picture[0], return_counts=True), strict=True):
            shares[labels[values == value]] += count / side**2
        torch.testing.assert_close(target, shares, rtol=0, atol=1e-6)  # sums of float32
        assert (picture == picture[:1]).all(), "all channels are cut alike"


def test_the_shares_of_a_batch_follow_the_beta_distribution():
    pictures, labels, _ = batch(2, classes=2)
    for alpha in (0.2, 1.0):
        shares = []
        for seed in range(2000):
            _, soft = Mix(alpha, 0, 2)(pictures, labels, np.random.default_rng(seed))
            shares.append(float(soft[0, 0]))
        mixed = np.array([s for s in shares if s != 1])  # half of the permutations of two leave both in place
        assert abs(mixed.mean() - 0.5) < 0.06  # a thousand draws with a deviation of at most 0.43: 0.014 is one error
        assert mixed.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)  # of Beta(alpha, alpha)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_the_rectangle_lies_within_the_picture_and_is_no_larger_than_its_share(height, width, area, seed):
    top, left, bottom, right = rectangle(height, width, area, np.random.default_rng(seed))
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert (bottom - top) * (right - left) <= area * height * width + 1e-9  # of the square root


def test_the_rectangle_reaches_every_corner():
    found = np.array([rectangle(20, 30, 0.25, np.random.default_rng(seed)) for seed in range(500)])
    assert found[:, :2].min(axis=0).tolist() == [0, 0]
    assert found[:, 2:].max(axis=0).tolist() == [20, 30]


def test_with_both_each_batch_takes_one_by_a_fair_coin():
    pictures, labels, values = batch(8, classes=8)
    cut = 0
    for seed in range(400):
        mixed, _ = Mix(1.0, 1.0, 8)(pictures, labels, np.random.default_rng(seed))
        cut += bool(torch.isin(mixed, values).all())
    assert 160 <= cut <= 240  # 200 ± 4 standard deviations; the seeds are fixed


@pytest.mark.parametrize(("mixup", "cutmix", "active"), [(0, 0, False), (0.2, 0, True), (0, 1, True), (0.2, 1, True)])
def test_nothing_is_mixed_unless_asked(mixup, cutmix, active):
    assert Mix(mixup, cutmix, 3).active is active


def test_hard_labels_as_soft_ones_have_the_same_loss():
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    soft = F.one_hot(labels, 5).float()
    for smoothing in (0, 0.1):
        torch.testing.assert_close(
            F.cross_entropy(logits, soft, label_smoothing=smoothing),
            F.cross_entropy(logits, labels, label_smoothing=smoothing),
        )
