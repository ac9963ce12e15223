import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pictures import encode, noise
from PIL import ExifTags, Image, features

from resnetv2 import preprocess
from resnetv2.errors import ConfigError, DataError
from resnetv2.preprocess import FITS, FORMATS, INTERPOLATION, MAX_PIXELS, Preprocessing, open_picture, open_pixels

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # Pillow warns of what it then refuses

ENCODABLE = [name for name in FORMATS if name != "AVIF" or features.check("avif")]
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(source):
    picture = open_picture(source)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(values):
    """(H, W) -> (H, W, 3)"""
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, axis=2)


def on_white(colour, alpha):
    """Composite on white by the formula."""
    return colour.astype(float) * (alpha / 255) + 255 * (1 - alpha / 255)


# --- modes ---


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_rgb_is_taken_as_it_is(format):  # noqa: A002  Pillow's word
    picture = noise(17, 9)
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encode(picture, format, **options)), np.asarray(picture))


def test_a_jpeg_is_what_pillow_decodes():
    data = encode(noise(17, 9), "JPEG")
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_is_black_and_white(format):  # noqa: A002
    bits = RAMP > 100
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(bits), format)), grey(bits * 255))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_goes_to_all_three_channels(format):  # noqa: A002
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(RAMP), format)), grey(RAMP))


def test_a_palette_is_looked_up():
    colours = noise(1, 256)
    picture = Image.fromarray(RAMP, "L").convert("P")
    picture.putpalette(colours.tobytes())
    expected = np.asarray(colours)[:, 0][RAMP]
    for format in ("PNG", "GIF", "BMP"):  # noqa: A001
        np.testing.assert_array_equal(pixels(encode(picture, format)), expected)


def test_transparency_shows_white():
    rgba = np.concatenate([np.asarray(noise(16, 16)), RAMP[:, :, None]], axis=2)
    found = pixels(encode(Image.fromarray(rgba)))
    expected = on_white(rgba[:, :, :3], rgba[:, :, 3:])
    np.testing.assert_allclose(found, expected, atol=1)  # Pillow composites in 8-bit integers: one level
    np.testing.assert_array_equal(found[RAMP == 0], 255)
    np.testing.assert_array_equal(found[RAMP == 255], rgba[RAMP == 255][:, :3])


def test_transparency_of_grey_shows_white():
    la = np.stack([RAMP[::-1], RAMP], axis=2)
    found = pixels(encode(Image.fromarray(la, "LA")))
    np.testing.assert_allclose(found, grey(np.rint(on_white(RAMP[::-1], RAMP))), atol=1)  # as above


def test_transparency_of_webp_and_tiff_shows_white():
    picture = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    for data in (encode(picture, "WEBP", lossless=True), encode(picture, "TIFF")):
        np.testing.assert_array_equal(pixels(data), 255)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_white(format):  # noqa: A002
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert pixels(encode(picture, format, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_palette_with_an_alpha_for_each_entry_shows_white():
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30] * 3)
    for i in range(3):
        picture.putpixel((i, 0), i)
    found = pixels(encode(picture, transparency=bytes([255, 0, 128])))
    assert found[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]
    np.testing.assert_allclose(found[0, 2], on_white(np.array([10, 20, 30]), 128), atol=1)  # as above


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (1, 2, 3)), ("L", 7), ("1", 0)])
def test_a_colour_declared_transparent_shows_white(mode, colour):
    picture = Image.new(mode, (2, 1), colour)
    picture.putpixel((1, 0), 255 if mode != "RGB" else (9, 9, 9))
    found = pixels(encode(picture, transparency=colour))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == ([9, 9, 9] if mode == "RGB" else [255, 255, 255])


def test_cmyk_is_converted():
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (255, 0, 0, 0): (0, 255, 255)}
    for ink, colour in inks.items():
        picture = Image.new("CMYK", (16, 16), ink)
        assert (pixels(encode(picture, "TIFF")) == colour).all()
        # one flat block of JPEG has its mean alone: off by rounding, once for the transform and once for the mean
        np.testing.assert_allclose(pixels(encode(picture, "JPEG", quality=100)), np.full((16, 16, 3), colour), atol=2)


def test_ycbcr_is_converted():
    picture = Image.new("RGB", (16, 16), (200, 30, 90))
    found = pixels(encode(picture.convert("YCbCr"), "TIFF"))
    np.testing.assert_allclose(found, np.asarray(picture), atol=2)  # there and back, each rounded to 8 bits


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(format):  # noqa: A002
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = pixels(encode(Image.fromarray(values), format))
    np.testing.assert_array_equal(found, grey(np.rint(values / 257)))  # 65535 = 255 * 257


def test_big_endian_16_bit_grey_is_the_same():
    values = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16)
    picture = Image.frombytes("I;16B", (16, 16), values.tobytes())
    np.testing.assert_array_equal(pixels(encode(picture, "TIFF")), grey(np.rint(values / 257)))


def test_32_bit_grey_is_taken_as_16_bit_and_clipped():
    values = np.array([[-5, 0, 257, 65535, 70000]], np.int32)
    assert pixels(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),  # 127.5 rounds to even
        ([0, 0.5, 2], [0, 0, 2]),
        ([0, 128, 255], [0, 128, 255]),
        ([-3, 0.6, 300], [0, 1, 255]),
    ],
)
def test_float_grey_is_0_to_1_or_0_to_255(values, expected):
    picture = Image.fromarray(np.array([values], np.float32))
    assert pixels(encode(picture, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_picture_with_holes_is_refused(value):
    with pytest.raises(DataError, match="NaN or infinite"):
        open_picture(encode(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format):  # noqa: A002
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(red, format, save_all=True, append_images=[blue, blue], **options)
    assert Image.open(io.BytesIO(data)).n_frames >= 2
    assert (pixels(data) == (255, 0, 0)).all()


# --- orientation ---

UPRIGHT = {  # what a viewer does to the stored pixels (EXIF 2.3, tag 0x0112)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_picture_is_turned_upright_once(format, orientation):  # noqa: A002
    picture, exif = noise(6, 4), Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    stored = pixels(encode(picture, format, **options))
    found = pixels(encode(picture, format, exif=exif, **options))
    np.testing.assert_array_equal(found, UPRIGHT[orientation](stored))


def test_a_turned_picture_keeps_its_transparency_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = pixels(encode(Image.new("RGBA", (6, 4), (1, 2, 3, 0)), "PNG", exif=exif))
    assert found.shape == (6, 4, 3)
    assert (found == 255).all()


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_changes_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encode(noise(6, 4), exif=exif)), np.asarray(noise(6, 4)))


# --- files ---


@pytest.mark.parametrize("format", ENCODABLE)
def test_the_content_decides_the_format_not_the_ending(tmp_path, format):  # noqa: A002
    data = encode(noise(16, 16), format)
    (tmp_path / "x.jpg").write_bytes(data)
    np.testing.assert_array_equal(pixels(tmp_path / "x.jpg"), pixels(data))


@pytest.mark.parametrize("format", ["PPM", "ICO", "EPS", "TGA", "PDF"])
def test_a_format_that_is_not_in_the_list_is_refused(format):  # noqa: A002
    with pytest.raises(DataError, match=r"^not a picture in a known format"):
        open_picture(encode(noise(16, 16), format))


@pytest.mark.parametrize(
    "data", [b"x", b"\0" * 1000, b"<html></html>", b"%PDF-1.7", b"hello world " * 100, b"\xff\xd8"]
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(DataError, match=r"^(not a picture in a known format|damaged picture: .)"):
        open_picture(data)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.png").touch()
    for source in (b"", tmp_path / "x.png"):
        with pytest.raises(DataError, match=r"^the file is empty$"):
            open_picture(source)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(DataError, match=r"^No such file"):
        open_picture(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"^a folder, and a picture file is expected here$"):
        open_picture(tmp_path)
    with pytest.raises(DataError, match=r"null byte"):
        open_picture(tmp_path / "x\0.png")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_a_jpeg_truncated_at_any_kilobyte_is_refused(options):
    data = encode(noise(200, 200), "JPEG", **options)
    assert len(data) > 20_000
    open_picture(data)
    for length in [*range(0, len(data), 1024), *range(len(data) - 8, len(data))]:
        with pytest.raises(DataError, match=r"damaged|empty"):
            open_picture(data[:length])


@pytest.mark.parametrize("format", ENCODABLE)
def test_a_truncated_picture_is_refused_unless_all_its_pixels_are_there(format):  # noqa: A002
    data = encode(noise(60, 60), format)
    whole, refused = pixels(data), 0
    lengths = [*range(0, len(data), len(data) // 40), *range(len(data) - 20, len(data))]
    for length in lengths:
        try:
            found = pixels(data[:length])
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, whole)
    assert refused >= 40  # a PNG without its end marker, a GIF without its trailer are whole


@pytest.mark.parametrize("format", ENCODABLE)
def test_flipped_bytes_give_a_picture_or_a_data_error_and_nothing_else(format):  # noqa: A002
    data, rng = (
        encode(noise(24, 24).convert("P") if format == "GIF" else noise(24, 24), format),
        np.random.default_rng(0),
    )
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), rng.choice([30, 200, 10**9])), rng.integers(1, 5)):
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            outcomes.add(pixels(bytes(damaged)).dtype)
        except DataError:
            outcomes.add(DataError)
    assert DataError in outcomes


# --- the pixel budget ---


def claim(width, height):
    """Return a PNG of a hundred bytes that claims to be large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(10))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [9_460, 12_000, 30_000, 2**31 - 1])  # from just above ours to far above Pillow's own
def test_a_picture_that_claims_too_many_pixels_is_refused_from_its_header(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(DataError, match=f"more than the {MAX_PIXELS:,} "):
        open_picture(claim(side, side))


def test_a_picture_within_the_budget_is_decoded_and_found_incomplete():
    with pytest.raises(DataError, match=r"^damaged picture"):
        open_picture(claim(1000, 1000))


def test_the_budget_is_kept_to_the_pixel(monkeypatch):
    data = encode(noise(8, 8))
    monkeypatch.setattr("resnetv2.preprocess.MAX_PIXELS", 64)
    assert open_picture(data).size == (8, 8)
    monkeypatch.setattr("resnetv2.preprocess.MAX_PIXELS", 63)
    with pytest.raises(DataError, match=r"^8×8 pixels, more than the 63 allowed$"):
        open_picture(data)


# --- JPEGs decoded smaller ---


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("times", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_as_many_times_smaller_as_asked(mode, progressive, times):
    data = encode(noise(83, 50).convert(mode), "JPEG", progressive=progressive)
    asked = []
    picture = open_picture(data, lambda *size: asked.append(size) or times)
    assert asked == [(83, 50)]
    assert picture.mode == "RGB"
    assert picture.size == (-(-83 // times), -(-50 // times))
    if times == 1:
        assert picture.tobytes() == open_picture(data).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_asked_about_is_that_of_the_upright_picture(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    asked = []
    picture = open_picture(encode(noise(80, 48), "JPEG", exif=exif), lambda *size: asked.append(size) or 2)
    assert asked == [(80, 48) if orientation < 5 else (48, 80)]
    assert picture.size == tuple(side // 2 for side in asked[0])


@pytest.mark.parametrize("format", [name for name in ENCODABLE if name != "JPEG"])
def test_no_other_format_is_decoded_smaller(format):  # noqa: A002
    data = encode(noise(40, 30), format)
    assert open_picture(data, lambda *_: 8).tobytes() == open_picture(data).tobytes()


def test_a_truncated_jpeg_is_refused_at_any_scale():
    data = encode(noise(200, 200), "JPEG")
    for times in (2, 4, 8):
        with pytest.raises(DataError, match="damaged picture"):
            open_picture(data[: len(data) // 2], lambda *_: times)  # noqa: B023  called at once


def test_a_jpeg_above_the_budget_is_refused_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr("resnetv2.preprocess.MAX_PIXELS", 99)
    with pytest.raises(DataError, match="more than the 99 allowed"):
        open_picture(encode(noise(10, 10), "JPEG"), lambda *_: pytest.fail("asked"))


def test_whatever_has_bytes_can_be_read(tmp_path):
    class Member:
        def read_bytes(self):
            return data

    data = encode(noise(5, 5))
    assert open_picture(Member()).tobytes() == noise(5, 5).tobytes()


# --- threads ---

RACE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from resnetv2.preprocess import open_picture

paths = sys.argv[1:] * 2
start = Barrier(len(paths))

def read(path):
    start.wait()
    return open_picture(Path(path)).size

with ThreadPoolExecutor(len(paths)) as pool:
    print(set(pool.map(read, paths)))
"""


def test_the_first_pictures_of_a_process_may_be_opened_by_many_threads_at_once(tmp_path):
    for name in ENCODABLE:
        (tmp_path / name).write_bytes(encode(noise(16, 16), name))
    done = subprocess.run(
        [sys.executable, "-c", RACE, *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{(16, 16)}\n", "")


def test_threads_decode_what_one_thread_decodes():
    files = [encode(noise(40, 30, seed), name) for seed in range(8) for name in ENCODABLE]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(pixels, files * 4))
    for one, many in zip(map(pixels, files * 4), found, strict=True):
        np.testing.assert_array_equal(one, many)


# --- geometry ---

SAMPLERS = {
    "antialias": {"interpolation": "bilinear"},
    "half_pixel": {"interpolation": "bilinear", "sampling": "half_pixel"},
    "half_pixel bicubic": {"interpolation": "bicubic", "sampling": "half_pixel"},
    "asymmetric": {"interpolation": "bilinear", "sampling": "asymmetric"},
}


def timm_rule(picture, size, resize, interpolation):
    """Resize and CenterCrop as torchvision and timm compute them."""
    width, height = picture.size
    short, long = sorted(picture.size)
    sides = resize, int(resize * long / short)
    width, height = sides if width <= height else sides[::-1]
    resized = picture.resize((width, height), INTERPOLATION[interpolation])
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 9),
    st.sampled_from(sorted(INTERPOLATION)),
)
def test_shortest_is_timms_resize_and_centre_crop(width, height, size, margin, interpolation):
    picture = noise(width, height)
    assume(max(picture.size) <= 32 * min(picture.size))  # a longer one is cut first, see below
    found = Preprocessing(image_size=size, resize=size + margin, interpolation=interpolation)(picture)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, timm_rule(picture, size, size + margin, interpolation))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(0, 9))
def test_squash_is_pillows_resize_to_a_square_and_its_centre(width, height, size, margin):
    picture, resize = noise(width, height), size + margin
    found = Preprocessing(image_size=size, resize=resize, fit="squash")(picture)
    left = round(margin / 2)
    whole = np.asarray(picture.resize((resize, resize), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found, whole[left : left + size, left : left + size])


def test_a_picture_of_the_right_size_is_not_touched():
    np.testing.assert_array_equal(Preprocessing(image_size=32, resize=32)(noise(32, 32)), np.asarray(noise(32, 32)))


def test_one_pixel_becomes_a_square_of_its_colour():
    found = Preprocessing()(Image.new("RGB", (1, 1), (1, 2, 3)))
    assert found.shape == (224, 224, 3)
    assert (found == (1, 2, 3)).all()


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (3001, 1), (1, 3001)])
def test_a_strip_gives_the_middle_that_resizing_all_of_it_gives(size):
    picture = noise(*size)
    found = Preprocessing(image_size=15, resize=16)(picture)
    np.testing.assert_array_equal(found, timm_rule(picture, 15, 16, "bicubic"))


@pytest.mark.parametrize("length", [2000, 2001])
@pytest.mark.parametrize("width", [3, 5])
def test_a_wider_strip_gives_the_middle_to_the_pixel(length, width):
    steep = np.clip(4 * (np.arange(length) - length // 2) + 128, 0, 255).astype(np.uint8)
    strip = Image.fromarray(grey(np.repeat(steep[None], width, axis=0)))
    for picture in (strip, strip.transpose(Image.Transpose.TRANSPOSE)):
        found = Preprocessing(image_size=15, resize=16)(picture)
        # The cut moves the grid by less than a pixel of the result, 5/16 of a step of 4 levels; rounding adds one.
        np.testing.assert_allclose(found.astype(int), timm_rule(picture, 15, 16, "bicubic"), atol=2)
        assert 100 < found.mean() < 156


def test_a_strip_as_long_as_the_budget_allows_needs_little_memory():
    for size in ((20_000_000, 1), (1, 20_000_000)):  # resized whole, it would have a million million pixels
        assert (Preprocessing()(Image.new("RGB", size, (1, 2, 3))) == (1, 2, 3)).all()


def test_decode_stacks_paths_and_bytes_in_order(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(noise(20, 30, 1)))
    preprocessing = Preprocessing(image_size=8, resize=10)
    found = preprocessing.decode([encode(noise(9, 9, 2)), tmp_path / "x.png"])
    assert found.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(found[0], preprocessing(noise(9, 9, 2)))
    np.testing.assert_array_equal(found[1], preprocessing(noise(20, 30, 1)))


def test_decode_refuses_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError):
        Preprocessing().decode([encode(noise(9, 9)), tmp_path / "x.png"])


# --- what is cut before resizing ---


@given(st.integers(1, 90), st.integers(1, 90), st.floats(0.01, 1), st.sampled_from(sorted(SAMPLERS)))
def test_a_central_fraction_is_cut_out_before_the_picture_is_resized(width, height, fraction, name):
    picture = noise(width, height)
    whole = Preprocessing(image_size=9, resize=9, fit="squash", **SAMPLERS[name])
    left, top = (int((side - side * fraction) / 2) for side in (width, height))
    expected = whole(picture.crop((left, top, width - left, height - top)))
    np.testing.assert_array_equal(replace(whole, central_fraction=fraction)(picture), expected)


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(sorted(SAMPLERS)))
def test_a_square_is_cut_out_of_the_middle_before_the_picture_is_resized(width, height, name):
    picture, side = noise(width, height), min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = Preprocessing(image_size=9, resize=9, **SAMPLERS[name])(
        picture.crop((left, top, left + side, top + side))
    )
    found = Preprocessing(image_size=9, resize=9, fit="square", **SAMPLERS[name])(picture)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_half_a_pixel_of_a_crop_is_rounded_as_it_is_told(name):
    square = Preprocessing(image_size=15, resize=15, **SAMPLERS[name])(noise(15, 15))
    for offset, start in (("round", 2), ("floor", 1)):  # of 1.5; 2 is even
        found = Preprocessing(image_size=12, resize=15, crop_offset=offset, **SAMPLERS[name])(noise(15, 15))
        np.testing.assert_array_equal(found, square[start : start + 12, start : start + 12])


# --- how pixels are sampled ---

POINTS = [name for name in sorted(SAMPLERS) if "antialias" not in name]  # not antialiased


def squash(size, name):
    return Preprocessing(image_size=size, resize=size, fit="squash", **SAMPLERS[name])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 255), st.sampled_from(POINTS))
def test_a_picture_of_one_colour_keeps_it(width, height, size, value, name):
    assert (squash(size, name)(Image.new("RGB", (width, height), (value,) * 3)) == value).all()


@pytest.mark.parametrize("name", POINTS)
def test_a_picture_of_the_right_size_is_not_touched_by_any_sampling(name):
    np.testing.assert_array_equal(squash(31, name)(noise(31, 31)), np.asarray(noise(31, 31)))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.sampled_from(["half_pixel", "asymmetric"]))
def test_bilinear_pixels_lie_between_the_darkest_and_the_brightest(width, height, size, name):
    picture = np.asarray(noise(width, height)) // 3 + 80
    found = squash(size, name)(Image.fromarray(picture))
    assert picture.min() <= found.min() <= found.max() <= picture.max()


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.sampled_from(["half_pixel", "half_pixel bicubic"])
)
def test_half_pixels_treat_both_ends_of_a_picture_alike(width, height, size, name):
    picture = noise(width, height)
    found = squash(size, name)(picture.transpose(Image.Transpose.ROTATE_180))[::-1, ::-1]
    # A weight and its mirror image differ in float32's last bit, which moves a half to the other side.
    np.testing.assert_allclose(found.astype(int), squash(size, name)(picture), atol=1)


def test_the_first_and_the_last_pixel_are_where_each_sampling_says():
    picture = Image.fromarray(grey([[0, 200]]))
    places = {"half_pixel": (-0.25, 0.25, 0.75, 1.25), "asymmetric": (0, 0.5, 1, 1.5)}  # of the four in the two
    for name, expected in places.items():
        assert squash(4, name)(picture)[0, :, 0].tolist() == [int(200 * min(max(p, 0), 1)) for p in expected]


def test_the_overshoot_of_bicubic_is_cut_and_does_not_wrap_round():
    found = squash(16, "half_pixel bicubic")(Image.fromarray(grey([[0] * 4 + [255] * 4])))[0, :, 0].astype(int)
    assert (found[0], found[-1]) == (0, 255)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("fit", FITS)
def test_a_long_strip_needs_little_memory_however_it_is_sampled(fit, name):
    for size in ((9_000_000, 1), (1, 9_000_000)):
        preprocessing = Preprocessing(fit=fit, **SAMPLERS[name])
        tracemalloc.start()
        assert (preprocessing(Image.new("RGB", size, (1, 2, 3))) == (1, 2, 3)).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 << 20  # the strip has 27 MB; resized whole in one direction it would have 24 GB


# --- settings ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": 0}, "image_size must lie in 1 … resize"),
        (
            {"image_size": 225},
            "image_size must lie in 1 … resize, and resize be at most 8192, got 225 with resize 224",
        ),
        ({"resize": 8193}, "resize be at most 8192, got 224 with resize 8193"),
        ({"image_size": 8193, "resize": 8193}, "resize be at most 8192, got 8193 with resize 8193"),
        ({"resize": 100}, "image_size must lie in 1 … resize"),
        ({"image_size": "224"}, "image_size must be of type int"),
        ({"image_size": 224.0}, "image_size must be of type int"),
        ({"image_size": True}, "image_size must be of type int"),
        ({"resize": None}, "resize must be of type int"),
        ({"fit": "crop"}, "fit must be one of 'shortest', 'squash', 'square'"),
        ({"sampling": "area"}, "sampling must be one of 'antialias', 'half_pixel', 'asymmetric', got 'area'"),
        ({"sampling": "half_pixel", "interpolation": "nearest"}, "needs interpolation 'bilinear', 'bicubic'"),
        ({"sampling": "asymmetric"}, "sampling 'asymmetric' needs interpolation 'bilinear', got 'bicubic'"),
        ({"crop_offset": "ceil"}, "crop_offset must be one of 'round', 'floor', got 'ceil'"),
        ({"central_fraction": 0.0}, "central_fraction must lie above 0 and be at most 1, got 0.0"),
        ({"central_fraction": 1.01}, "central_fraction must lie above 0"),
        ({"central_fraction": float("nan")}, "central_fraction must lie above 0"),
        ({"central_fraction": "0.875"}, "central_fraction must be of type float"),
        ({"sampling": None}, "sampling must be of type str"),
        ({"fit": 5}, "fit must be of type str"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'?"),
        ({"interpolation": ["bicubic"]}, "interpolation must be of type str"),
        ({"mean": (1.0, 2.0)}, "three numbers"),
        ({"mean": (1.0, 2.0, "3")}, "three numbers"),
        ({"mean": (1.0, 2.0, float("nan"))}, "three numbers"),
        ({"mean": 127.5}, "mean must be of type tuple"),
        ({"std": (1.0, 2.0, 0.0)}, "std above 0"),
        ({"std": (1.0, 2.0, -1.0)}, "std above 0"),
        ({"std": (1.0, 2.0, float("inf"))}, "three numbers"),
        ({"std": None}, "std must be of type tuple"),
    ],
)
def test_an_impossible_preprocessing_is_refused(fields, words):
    with pytest.raises(ConfigError) as caught:
        Preprocessing(**fields)
    assert words in str(caught.value)


def test_all_problems_of_a_preprocessing_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Preprocessing(image_size=0, fit="crop", sampling="area", central_fraction=2.0, std=(0.0, 0.0, 0.0))
    for name in ("image_size", "fit", "sampling", "central_fraction", "std"):
        assert name in str(caught.value)


def test_what_an_older_model_file_does_not_say_is_as_it_was():
    fields = {"image_size": 32, "resize": 40, "fit": "shortest", "interpolation": "bicubic"}
    old = Preprocessing.from_dict({**fields, "mean": [127.5] * 3, "std": [127.5] * 3})
    np.testing.assert_array_equal(old(noise(57, 43)), timm_rule(noise(57, 43), 32, 40, "bicubic"))


def test_the_largest_preprocessing_is_taken():
    assert Preprocessing(image_size=8192, resize=8192).resize == 8192


def test_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match=r"unknown preprocessing field 'crop': choose from|did you mean"):
        Preprocessing.from_dict({"crop": 0.875})


def test_a_preprocessing_survives_json():
    preprocessing = Preprocessing(image_size=32, resize=40, fit="squash", mean=(0.0, 1.5, 2), interpolation="nearest")
    tf_slim = Preprocessing(
        central_fraction=0.875, interpolation="bilinear", sampling="asymmetric", crop_offset="floor"
    )
    for one in (preprocessing, tf_slim):
        assert Preprocessing.from_dict(json.loads(json.dumps(one.to_dict()))) == one


# --- HEIF ---


def heif(picture, **options):
    """Return the bytes of a HEIC file."""
    pillow_heif, file = pytest.importorskip("pillow_heif"), io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, quality=-1, chroma=444, matrix_coefficients=0, **options)  # lossless
    return file.getvalue()


def test_heif_is_read_and_pillow_is_left_as_it_was(tmp_path):
    (tmp_path / "x.jpg").write_bytes(heif(noise(40, 24)))
    before = dict(Image.OPEN), dict(Image.EXTENSION)
    np.testing.assert_array_equal(pixels(tmp_path / "x.jpg"), np.asarray(noise(40, 24)))
    np.testing.assert_array_equal(open_pixels(tmp_path / "x.jpg"), np.asarray(noise(40, 24)))
    assert (dict(Image.OPEN), dict(Image.EXTENSION)) == before


def test_transparency_of_heif_shows_white():
    picture = noise(40, 24).convert("RGBA")
    picture.putalpha(0)
    assert (pixels(heif(picture)) == 255).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heif_is_turned_upright_once(orientation):
    picture, exif = noise(40, 24), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = pixels(heif(picture, exif=exif.tobytes()))
    np.testing.assert_array_equal(found, pixels(encode(picture, exif=exif)))
    assert found.shape == ((40, 24, 3) if orientation > 4 else (24, 40, 3))


def test_heif_above_the_budget_is_refused_from_its_header(monkeypatch):
    data = heif(noise(40, 24))
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 40 * 24 - 1)
    with pytest.raises(DataError, match=r"^40×24 pixels, more than the 959 allowed$"):
        open_picture(data)


def test_damaged_heif_is_refused_or_answered():
    data, rng, refused = heif(noise(64, 64)), np.random.default_rng(0), 0
    for _ in range(60):
        bad = bytearray(data)
        for place in rng.integers(0, len(bad) if rng.random() < 0.5 else 400, 4):  # what describes it stands first
            bad[place] = rng.integers(256)
        try:
            assert pixels(bytes(bad)).dtype == np.uint8
        except DataError:
            refused += 1
    assert refused > 20
    for length in range(12, len(data) - 1, len(data) // 20):
        with pytest.raises(DataError, match=r"^damaged picture: ."):
            open_picture(data[:length])


def test_without_pillow_heif_the_way_to_get_it_is_told(monkeypatch):
    data = heif(noise(8, 8))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r'needs pillow-heif: pip install "resnetv2\[heif\]"$'):
        open_picture(data)


# --- the same pixels, sooner ---


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_are_those_of_the_picture_at_any_size_and_reduction(mode, options):
    pytest.importorskip("simplejpeg")
    for seed in range(12):
        width, height = np.random.default_rng(seed).integers(1, 80, 2).tolist()
        coarse = noise(width // 6 + 1, height // 6 + 1, seed).resize((width, height), Image.Resampling.BICUBIC)
        data = encode(coarse.convert(mode), "JPEG", quality=30 + 5 * seed, **options)
        for times in (1, 2, 4, 8):
            reduction = None if times > min(width, height) else lambda *_, times=times: times
            found = open_pixels(data, reduction)
            np.testing.assert_array_equal(found, np.asarray(open_picture(data, reduction)))
            assert found.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(noise(40, 24), "JPEG", exif=exif)
    np.testing.assert_array_equal(open_pixels(data), np.asarray(open_picture(data)))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP"])
def test_pixels_of_other_formats_are_those_of_the_picture(format):  # noqa: A002
    data = encode(noise(20, 30), format)
    np.testing.assert_array_equal(open_pixels(data), np.asarray(open_picture(data)))


def test_pixels_are_refused_where_the_picture_is_and_in_the_same_words():
    whole = encode(noise(64, 64), "JPEG", quality=95)
    damaged = [whole[:length] for length in range(0, len(whole), 331)]
    damaged += [whole[:place] + b"\xff\xd9\x00" + whole[place + 3 :] for place in range(100, len(whole), 331)]
    answered = 0
    for data in damaged:
        answers = []
        for function in (open_picture, open_pixels):
            try:
                answers.append(np.asarray(function(data)).tobytes())
            except DataError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]
        answered += isinstance(answers[0], bytes)
    assert answered < len(damaged) / 2


def test_simplejpeg_does_the_work_where_it_can_and_pillow_where_it_is_not_installed(monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    calls = []
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: calls.append(1) or real(*args, **options))
    data = encode(noise(40, 24), "JPEG")
    pixels = open_pixels(data)
    assert calls == [1]
    monkeypatch.setattr(preprocess, "simplejpeg", None)
    np.testing.assert_array_equal(open_pixels(data), pixels)
    assert calls == [1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has none")
def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_picture(tmp_path / "pipe.png")
