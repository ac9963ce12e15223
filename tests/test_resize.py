"""Crops resized by torch in training: Pillow's, to a level of grey."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from resnetv2.data.augment import Augment, resize_box
from resnetv2.runtime import pytorch
from resnetv2.runtime.pytorch import choose_resize, resize_box_fast

PHOTO = np.ascontiguousarray(load_sample_image("china.jpg"))  # (427, 640, 3)


@settings(max_examples=40)
@given(st.data(), st.integers(32, 300), st.booleans())
def test_a_box_of_whole_pixels_is_pillows_to_a_level_of_grey(data, size, bicubic):
    left, top = data.draw(st.integers(0, 570)), data.draw(st.integers(0, 360))
    right, bottom = data.draw(st.integers(left + 64, 640)), data.draw(st.integers(top + 64, 427))
    found = resize_box_fast(PHOTO, (left, top, right, bottom), size, bicubic)
    part = Image.fromarray(PHOTO[top:bottom, left:right])  # torch sees nothing beyond the box
    expected = resize_box(np.asarray(part), (0, 0, right - left, bottom - top), size, bicubic)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    off = np.abs(found.astype(int) - expected)
    # Both round weights to 16 bits and each pass to whole levels, in different places; where bicubic overshoots black
    # or white between the passes, they also cut it in different places: 1 pixel of 400 at most in this picture.
    assert (off > 1).mean() <= (0.01 if bicubic else 0)
    assert off.mean() <= 0.5


def test_a_box_as_wide_as_pixels_that_cannot_be_written_is_read_without_a_warning():
    """It lies in memory as it is, as Pillow's do, and torch would warn of it."""
    pixels = PHOTO[:200].copy()
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.set_warn_always(True)
        try:
            found = resize_box_fast(pixels, (0, 0, pixels.shape[1], 200), 96, bicubic=False)
        finally:
            torch.set_warn_always(False)
    assert np.array_equal(found, resize_box_fast(pixels.copy(), (0, 0, pixels.shape[1], 200), 96, bicubic=False))


def test_a_box_between_pixels_moves_by_half_a_pixel_at_most():
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    for left in (10.0, 10.3, 10.5, 10.9):
        found = resize_box_fast(ramp, (left, 20.0, left + 100, 120.0), 50, bicubic=False).astype(float)
        # half a pixel of the ramp is half a level; rounding adds another, on either side
        assert np.abs(found - resize_box(ramp, (left, 20.0, left + 100, 120.0), 50, bicubic=False)).max() <= 1.5


def test_a_small_box_is_pillows_to_a_fraction_of_a_pixel():
    box = (10.3, 20.7, 73.2, 90.1)
    for bicubic in (False, True):
        expected = resize_box(PHOTO, box, 32, bicubic)
        np.testing.assert_array_equal(resize_box_fast(PHOTO, box, 32, bicubic), expected)


def test_threads_resize_what_one_thread_resizes():
    boxes = [(i, i, 300 + 3 * i, 200 + 2 * i) for i in range(100)]
    alone = [resize_box_fast(PHOTO, box, 224, i % 2 == 0).tobytes() for i, box in enumerate(boxes)]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(
            lambda job: resize_box_fast(PHOTO, job[1], 224, job[0] % 2 == 0).tobytes(), enumerate(boxes)
        )
        assert list(together) == alone


@pytest.mark.parametrize(("capability", "expected"), [("AVX2", resize_box_fast), ("DEFAULT", resize_box)])
def test_torch_resizes_where_it_has_vector_code(monkeypatch, capability, expected):
    monkeypatch.setattr(pytorch.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose_resize() is expected


def test_an_augment_that_resizes_by_torch_can_go_to_a_process():
    augment = Augment(scale=(0.3, 1.0), ratio=(0.75, 4 / 3), hflip=0.5, resize=resize_box_fast)
    there = pickle.loads(pickle.dumps(augment))
    one, other = (a(PHOTO, 96, np.random.default_rng(3)) for a in (augment, there))
    np.testing.assert_array_equal(one, other)
    assert (one != replace(augment, hflip=0.0, resize=resize_box)(PHOTO, 96, np.random.default_rng(5))).any()
