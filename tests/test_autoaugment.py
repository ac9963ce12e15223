"""TrivialAugment and RandAugment against their papers' definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise
from PIL import Image

from resnetv2.data import autoaugment
from resnetv2.data.augment import Augment
from resnetv2.data.autoaugment import GREY, NARROW, OPERATIONS, WIDE, policy, rand_augment, trivial_augment

NAMES = ("rand", "rand-m3", "trivial")

PICTURE = noise(40, 40)


def pixels(name, strength, ranges=WIDE, picture=PICTURE):
    return np.asarray(OPERATIONS[name](picture, strength, ranges)).astype(int)


@pytest.fixture
def calls(monkeypatch):
    """Record (operation, strength, ranges) instead of changing pictures."""
    seen = []

    def recorder(name):
        def record(picture, strength, ranges):
            seen.append((name, strength, ranges))
            return picture

        return record

    monkeypatch.setattr(autoaugment, "OPERATIONS", {name: recorder(name) for name in OPERATIONS})
    return seen


def test_trivial_augment_draws_one_of_fourteen_operations_and_one_of_thirty_one_strengths_uniformly(calls):
    for seed in range(14_000):
        trivial_augment(PICTURE, np.random.default_rng(seed))
    assert len(calls) == 14_000
    counts = Counter(name for name, _, _ in calls)
    assert set(counts) == set(OPERATIONS)
    assert len(OPERATIONS) == 14
    assert all(850 < n < 1150 for n in counts.values())  # 1000 ± 5 standard deviations; the seeds are fixed
    strengths = Counter(round(30 * abs(strength)) for _, strength, _ in calls)
    assert sorted(strengths) == list(range(31))
    assert all(340 < n < 565 for n in strengths.values())  # 452 ± 5 standard deviations
    assert {ranges for _, _, ranges in calls} == {WIDE}


def test_rand_augment_draws_two_operations_at_nine_tenths(calls):
    for seed in range(1000):
        rand_augment(PICTURE, np.random.default_rng(seed))
    assert len(calls) == 2000
    assert {name for name, _, _ in calls} == set(OPERATIONS)
    assert {abs(strength) for _, strength, _ in calls} == {0.9}
    calls.clear()
    policy("rand-m4")(PICTURE, np.random.default_rng(0))
    assert {abs(strength) for _, strength, _ in calls} == {0.4}
    assert {ranges for _, _, ranges in calls} == {NARROW}


def test_turned_sheared_and_moved_pictures_go_both_ways_equally_often(calls):
    for seed in range(7000):
        trivial_augment(PICTURE, np.random.default_rng(seed))
    signs = Counter((name, strength > 0) for name, strength, _ in calls if strength)
    both = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    for name in OPERATIONS:
        share = signs[name, False] / (signs[name, True] + signs[name, False])
        assert abs(share - 0.5) < 0.12 if name in both else share == 0  # 500 draws: five standard deviations


@given(st.sampled_from(NAMES), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_size_and_mode_stay_and_the_generator_alone_decides(name, width, height, seed):
    picture = noise(width, height, seed % 7)
    before = picture.tobytes()
    one, same = (policy(name)(picture, np.random.default_rng(seed)) for _ in range(2))
    assert one.size == picture.size
    assert one.mode == "RGB"
    assert one.tobytes() == same.tobytes()
    assert picture.tobytes() == before


@pytest.mark.parametrize("ranges", [WIDE, NARROW])
@pytest.mark.parametrize(
    "name",
    ["identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y", "solarize", "posterize"],
)
def test_strength_nought_changes_nothing(name, ranges):
    np.testing.assert_array_equal(pixels(name, 0, ranges), np.asarray(PICTURE))


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_blends_run_from_almost_nothing_to_twice(name):
    np.testing.assert_allclose(WIDE.blend(0), 0.01)
    np.testing.assert_allclose(WIDE.blend(1), 2)
    unchanged = (1 - 0.01) / 1.99
    np.testing.assert_array_equal(pixels(name, unchanged), np.asarray(PICTURE))
    assert (pixels(name, 1) != np.asarray(PICTURE)).any()
    assert [NARROW.blend(s) for s in (0, 0.5, 1)] == pytest.approx([0.1, 1, 1.9])  # rounding of the sum


def test_brightness_multiplies():
    np.testing.assert_array_equal(pixels("brightness", 1), np.minimum(2 * np.asarray(PICTURE).astype(int), 255))


def test_solarize_at_full_strength_inverts_and_at_half_only_what_is_bright():
    whole = np.asarray(PICTURE).astype(int)
    np.testing.assert_array_equal(pixels("solarize", 1), 255 - whole)
    np.testing.assert_array_equal(pixels("solarize", 0.5), np.where(whole >= 128, 255 - whole, whole))


@pytest.mark.parametrize(("ranges", "bits"), [(WIDE, 2), (NARROW, 4)])
def test_posterize_leaves_the_fewest_bits_at_full_strength(ranges, bits):
    np.testing.assert_array_equal(pixels("posterize", 1, ranges), np.asarray(PICTURE) >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize("strength", [1, -1, 0.5, -0.25])
@pytest.mark.parametrize(("ranges", "full"), [(WIDE, 32), (NARROW, 18)])  # 150/331 of 40 pixels, cut to whole ones
def test_translation_moves_by_whole_pixels_and_uncovers_grey(strength, ranges, full):
    whole, shift = np.asarray(PICTURE), int(strength * ranges.shift(40))
    assert abs(int(ranges.shift(40))) == full
    expected = np.full_like(whole, GREY)
    if shift > 0:
        expected[:, : 40 - shift] = whole[:, shift:]
    else:
        expected[:, -shift:] = whole[:, : 40 + shift]
    np.testing.assert_array_equal(pixels("translate_x", strength, ranges), expected)
    moved = OPERATIONS["translate_y"](PICTURE.transpose(Image.Transpose.TRANSPOSE), strength, ranges)
    np.testing.assert_array_equal(np.asarray(moved.transpose(Image.Transpose.TRANSPOSE)), expected)


def test_rotation_and_shear_go_as_far_as_the_papers_say(monkeypatch):
    angles, matrices = [], []
    monkeypatch.setattr(Image.Image, "rotate", lambda self, angle, **_: angles.append(angle) or self)
    monkeypatch.setattr(Image.Image, "transform", lambda self, _size, _kind, m, **_o: matrices.append(m) or self)
    for ranges in (WIDE, NARROW):
        for strength in (1, -1):
            for name in ("rotate", "shear_x", "shear_y"):
                OPERATIONS[name](PICTURE, strength, ranges)
    assert angles == [135, -135, 30, -30]
    assert [m[1] for m in matrices[::2]] == [0.99, -0.99, 0.3, -0.3]
    assert [m[3] for m in matrices[1::2]] == [0.99, -0.99, 0.3, -0.3]


def test_a_policy_changes_what_is_cropped_and_mirrored_and_none_changes_no_bit():
    picture = np.asarray(noise(50, 40))
    plain = Augment(scale=(0.3, 1), ratio=(0.75, 4 / 3), hflip=0.5)
    for name in NAMES:
        augment = Augment(scale=(0.3, 1), ratio=(0.75, 4 / 3), hflip=0.5, auto_augment=name)
        changed = 0
        for seed in range(50):
            before, after = (a(picture, 32, np.random.default_rng(seed)) for a in (plain, augment))
            assert after.shape == (32, 32, 3)
            assert after.dtype == np.uint8
            changed += (before != after).any()
        assert changed > 25
