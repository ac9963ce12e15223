"""Random views of pictures: crops, mirror images, erased patches, JPEGs decoded no larger than a view needs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, noise
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image

from resnetv2.data.augment import Augment, View, border_colour, erase
from resnetv2.preprocess import open_picture, open_pixels

AUGMENT = Augment(scale=(0.3, 1.0), ratio=(0.75, 4 / 3), hflip=0.5)
SCALED = replace(AUGMENT, dct_scaling=True)

SHARES = st.floats(1e-9, 1).flatmap(lambda low: st.floats(low, 1).map(lambda high: (low, high)))
RATIOS = st.floats(0.01, 100).flatmap(lambda low: st.floats(low, 100).map(lambda high: (low, high)))


@given(st.integers(1, 5000), st.integers(1, 5000), SHARES, RATIOS, st.integers(0, 2**32))
def test_the_crop_lies_within_the_picture(width, height, scale, ratio, seed):
    box = Augment(scale=scale, ratio=ratio, hflip=0.5).box(width, height, np.random.default_rng(seed))
    left, top, right, bottom = np.float32(box)  # as Pillow takes them
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(st.integers(1, 60), st.integers(1, 60), SHARES, RATIOS, st.integers(1, 20), st.integers(0, 2**32))
def test_any_picture_becomes_a_square_of_the_size(width, height, scale, ratio, size, seed):
    found = Augment(scale=scale, ratio=ratio, hflip=0.5)(
        np.asarray(noise(width, height)), size, np.random.default_rng(seed)
    )
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8


def test_the_crop_keeps_the_share_and_the_shape_asked_for():
    for seed in range(200):
        box = Augment(scale=(0.25, 0.5), ratio=(0.8, 1.25), hflip=0).box(1000, 1000, np.random.default_rng(seed))
        width, height = box[2] - box[0], box[3] - box[1]
        # w·h and w/h of the square roots, each a few roundings of 1e-16 from the bounds
        assert 0.25 - 1e-9 <= width * height / 1e6 <= 0.5 + 1e-9
        assert 0.8 - 1e-9 <= width / height <= 1.25 + 1e-9


def test_crops_reach_every_corner():
    boxes = [AUGMENT.box(100, 50, np.random.default_rng(seed)) for seed in range(500)]
    assert min(b[0] for b in boxes) < 5
    assert max(b[2] for b in boxes) > 95
    assert min(b[1] for b in boxes) < 2.5
    assert max(b[3] for b in boxes) > 47.5


def test_a_probability_of_one_mirrors_and_of_none_does_not():
    picture = np.asarray(noise(20, 30))
    for seed in range(20):
        plain, mirrored = (
            Augment(scale=(0.3, 1), ratio=(0.75, 4 / 3), hflip=p)(picture, 8, np.random.default_rng(seed))
            for p in (0, 1)
        )
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])
        assert (mirrored != plain).any()


def test_half_of_the_pictures_are_mirrored():
    picture, augment = np.asarray(noise(8, 8)), Augment(scale=(1, 1), ratio=(1, 1), hflip=0.5)
    same = sum(
        np.array_equal(augment(picture, 8, np.random.default_rng(seed)), np.asarray(picture)) for seed in range(400)
    )
    assert 160 <= same <= 240  # 200 ± 4 standard deviations of a fair coin; the seeds are fixed


def test_the_whole_of_a_square_is_the_picture_itself():
    whole = Augment(scale=(1, 1), ratio=(1, 1), hflip=0)
    picture = noise(16, 16)
    resized = {picture.resize((5, 5), f).tobytes() for f in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}
    found = {whole(np.asarray(picture), 5, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert found == resized
    np.testing.assert_array_equal(whole(np.asarray(picture), 16, np.random.default_rng(0)), np.asarray(picture))


def test_the_generator_alone_decides():
    one, same, other = (AUGMENT(np.asarray(noise(40, 40)), 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_crop_larger_than_the_picture_shows_more_of_the_paper_around_it():
    picture = Image.new("RGB", (20, 20), (250, 240, 230))
    picture.paste((0, 0, 0), (8, 8, 12, 12))
    augment = Augment(scale=(4, 4), ratio=(1, 1), hflip=0)
    pixels = augment(np.asarray(picture), 40, np.random.default_rng(0))
    dark = (pixels.max(axis=2) < 100).sum()
    assert 8 <= dark <= 24, "a 4×4 mark in a 20×20 picture shown at its own scale is 16 pixels, less its blurred rim"
    assert (pixels[0] == (250, 240, 230)).all()
    assert (pixels[:, -1] == (250, 240, 230)).all()
    assert border_colour(np.asarray(picture)) == (250, 240, 230)


# --- JPEGs decoded smaller ---

PHOTO = Image.fromarray(load_sample_image("china.jpg"))  # 640×427, as a camera sees


def turned(picture, orientation):
    """Return a JPEG that says it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(picture, "JPEG", quality=90, exif=exif)


def test_a_jpeg_is_decoded_as_small_as_picture_and_crop_still_fill_the_view():
    for seed in range(200):
        width, height = np.random.default_rng(seed).integers(1, 5000, 2)
        view = View(SCALED, 64, np.random.default_rng(seed))
        reduction = view.choose(int(width), int(height))
        left, top, right, bottom = view.box
        least = min(width, height, right - left, bottom - top)
        assert reduction in (1, 2, 4, 8)
        assert reduction == 1 or least / reduction >= 64
        assert reduction == 8 or least / (2 * reduction) < 64


def test_without_dct_scaling_every_picture_is_decoded_whole():
    assert View(AUGMENT, 8, np.random.default_rng(0)).choose(5000, 5000) == 1


@pytest.mark.parametrize(
    ("size", "orientation"),
    [((601, 401), 1), ((1203, 799), 1), ((2407, 1601), 1), *(((1200, 800), o) for o in range(2, 9))],
)
def test_a_view_of_a_jpeg_decoded_smaller_is_that_of_the_whole_to_a_few_grey_levels(size, orientation):
    data = turned(PHOTO.resize(size), orientation)
    for seed in range(4):
        views = [View(augment, 96, np.random.default_rng(seed)) for augment in (AUGMENT, SCALED)]
        whole, smaller = (view.cut(open_pixels(data, view.choose)).astype(int) for view in views)
        assert views[1].reduction > 1
        # libjpeg averages by its DCT where Pillow would by its filter: the same light, edges a little softer or harder.
        # Measured 0.5 to 2.5 of 255 on this photograph; half a pixel off is 5.7 and more, turned wrongly 90.
        assert np.abs(whole - smaller).mean() < 3
        assert abs(whole.mean() - smaller.mean()) < 0.5  # measured at most 0.08
        assert smaller.std() / whole.std() == pytest.approx(1, abs=0.02)  # measured 0.99 to 1.00


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_whose_size_no_reduction_divides_is_decoded_whole(orientation):
    for size, kept in (((1200, 800), True), ((1201, 801), orientation == 1)):
        picture = open_picture(turned(PHOTO.resize(size), orientation), lambda *_: 4)
        assert (max(picture.size) < 400) is kept


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_decoded_whole(format):  # noqa: A002  Pillow's word
    data = encode(PHOTO, format)
    whole, scaled = (
        view.cut(open_pixels(data, view.choose))
        for view in (View(augment, 32, np.random.default_rng(1)) for augment in (AUGMENT, SCALED))
    )
    np.testing.assert_array_equal(whole, scaled)


def test_a_jpeg_too_small_to_be_reduced_gives_the_same_bits():
    data = encode(noise(150, 130), "JPEG")
    for seed in range(20):
        whole, scaled = (
            view.cut(open_pixels(data, view.choose))
            for view in (View(augment, 66, np.random.default_rng(seed)) for augment in (AUGMENT, SCALED))
        )
        np.testing.assert_array_equal(whole, scaled)


def test_zooming_out_of_a_jpeg_decoded_smaller_shows_paper_around_it():
    picture = Image.new("RGB", (400, 400), (250, 240, 230))
    picture.paste((0, 0, 0), (120, 120, 280, 280))
    augment = Augment(scale=(4, 4), ratio=(1, 1), hflip=0, dct_scaling=True)
    view = View(augment, 100, np.random.default_rng(0))
    pixels = view.cut(open_pixels(encode(picture, "JPEG", quality=95), view.choose))
    assert view.reduction == 4
    dark = (pixels.max(axis=2) < 128).mean()
    assert dark == pytest.approx((160 / 800) ** 2, rel=0.06)  # the mark's rim, one pixel of forty


# --- erased patches ---


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**32))
def test_an_erased_patch_is_one_rectangle_of_the_papers_size_and_the_rest_stays(height, width, seed):
    pixels = np.zeros((height, width, 3), np.uint8)
    out = erase(pixels, np.random.default_rng(seed))
    assert out.dtype == np.uint8
    assert out.shape == pixels.shape
    rows, columns = np.nonzero(out.any(axis=2))
    if len(rows):
        h, w = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        # sides are rounded to pixels; a random pixel is black with 2^-24, which no seed here meets at an edge
        assert (h + 1) * (w + 1) >= 0.02 * height * width
        assert (h - 1) * (w - 1) <= 0.4 * height * width
        assert (h + 1) / max(w - 1, 0.5) >= 0.3
        assert (h - 1) / (w + 1) <= 1 / 0.3
    assert not pixels.any()


def test_half_of_the_pictures_are_erased_when_asked_and_the_generator_alone_decides():
    augment = Augment(scale=(1, 1), ratio=(1, 1), hflip=0, random_erasing=0.5)
    plain, picture = Augment(scale=(1, 1), ratio=(1, 1), hflip=0), np.full((16, 16, 3), 9, np.uint8)
    outs = [augment(picture, 16, np.random.default_rng(seed)) for seed in range(400)]
    again = [augment(picture, 16, np.random.default_rng(seed)) for seed in range(400)]
    np.testing.assert_array_equal(outs, again)
    erased = sum((out != plain(picture, 16, np.random.default_rng(0))).any() for out in outs)
    assert 160 <= erased <= 240  # 200 ± 4 standard deviations of a fair coin; the seeds are fixed


def test_erased_pixels_are_uniform():
    outs = [erase(np.full((32, 32, 3), 7, np.uint8), np.random.default_rng(seed)) for seed in range(300)]
    new = np.concatenate([out[(out != 7).any(axis=2)].ravel() for out in outs])
    counts = np.bincount(new, minlength=256)
    assert counts.min() > 0
    assert abs(new.mean() - 127.5) < 1  # of some 190,000 values with a deviation of 74: 0.2 is one standard error
