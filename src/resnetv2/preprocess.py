"""From the bytes of a picture file to the pixels a network sees. NumPy and Pillow only; the only implementation.

Training, evaluation, prediction and verification all decode with ``open_picture``. What happens after decoding is a
``Preprocessing``, which travels inside the model file and cannot be separated from the weights.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnetv2.errors import ConfigError, DataError, unknown
from resnetv2.plain import Plain

try:
    import simplejpeg
except ImportError:  # it is quicker, and nothing else: Pillow gives the same pixels
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".mpo",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
    }
)
MAX_PIXELS = 89_478_485  # 0.25 GiB of RGB, the size at which Pillow itself begins to warn
_MOST_BYTES = 12 * MAX_PIXELS  # of a file: the largest picture allowed, uncompressed with 32 bits a channel
MAX_SIDE = 8192  # of what a network is given
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
_LONGEST = 32  # times the short side
INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
FITS = ("shortest", "squash", "square")
SAMPLING = {  # of which filters each is published
    "antialias": tuple(INTERPOLATION),
    "half_pixel": ("bilinear", "bicubic"),
    "asymmetric": ("bilinear",),
}
CROP_OFFSET: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor}

_HEIF = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1"})  # brands of files that hold pictures coded by HEVC

_TURNED = range(2, 9)  # EXIF orientations that are not upright, and those of them …
_ON_ITS_SIDE = range(5, 9)  # … that swap width and height
_BLOCK = 8  # pixels of a JPEG's blocks; of smaller pictures, different reductions have one size

Image.init()  # every plugin, now: Pillow would load them at the first rare format, which is not safe among threads


class Readable(Protocol):
    """Where the bytes of a picture file are: a path, or a place inside a larger file."""

    def read_bytes(self) -> bytes:
        """Return all of them. Raises OSError or DataError."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Plain):
    """How an RGB picture becomes the network's input.

    The centre of the picture, ``central_fraction`` of both its sides, is resized: so that its shortest side has
    ``resize`` pixels ("shortest"), or both sides have ("squash"), or its largest central square becomes one of that
    side ("square"). The central square of ``image_size`` pixels is cut out; then (pixel - mean) / std, in units of
    0 to 255, channels in RGB order.

    A pixel of the result is the weighted mean of the pixels around one place of the picture: of as many as fall
    together there ("antialias", Pillow's filters), or of only the two ("bilinear") or four ("bicubic", Keys 1981 with
    a = -0.5) nearest in each direction, where pixels are small squares ("half_pixel": OpenCV, TensorFlow 2) or points
    on a grid that begins in the first of them ("asymmetric": TensorFlow 1). The last two are ONNX's words. The result
    is rounded to whole levels of grey, ties to even, and cut to 0 … 255. ``docs/dialects.md`` tells who needs what.

    Raises:
        ConfigError: naming the fields that are out of range.
    """

    noun = "preprocessing field"

    image_size: int = 224
    resize: int = 224
    fit: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    central_fraction: float = 1.0  # of both sides, kept before resizing
    sampling: str = "antialias"
    crop_offset: str = "round"  # half a pixel of a centred crop: "round" (ties to even, torchvision) | "floor"

    def __post_init__(self) -> None:
        problems = list(self._mistyped()) or list(self._out_of_range())
        if problems:
            raise ConfigError("; ".join(problems))

    def _out_of_range(self) -> Iterator[str]:
        if not 1 <= self.image_size <= self.resize <= MAX_SIDE:
            got = f"got {self.image_size} with resize {self.resize}"
            yield f"image_size must lie in 1 … resize, and resize be at most {MAX_SIDE}, {got}"
        for name, allowed in (("fit", FITS), ("sampling", SAMPLING), ("crop_offset", CROP_OFFSET)):
            if getattr(self, name) not in allowed:
                yield f"{name} must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}"
        if self.interpolation not in INTERPOLATION:
            yield unknown("interpolation", self.interpolation, INTERPOLATION)
        elif self.interpolation not in SAMPLING.get(self.sampling, INTERPOLATION):
            known = ", ".join(map(repr, SAMPLING[self.sampling]))
            yield f"sampling {self.sampling!r} needs interpolation {known}, got {self.interpolation!r}"
        if not 0 < self.central_fraction <= 1:
            yield f"central_fraction must lie above 0 and be at most 1, got {self.central_fraction!r}"
        numbers = [type(v) in (int, float) and math.isfinite(v) for v in (*self.mean, *self.std)]
        if len(self.mean) != 3 or len(self.std) != 3 or not all(numbers) or min(self.std) <= 0:
            yield f"mean and std must be three numbers, std above 0, got {self.mean!r} and {self.std!r}"

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Cut, resize and crop an RGB picture. Returns uint8 (image_size, image_size, 3), RGB."""
        picture = self._cut(picture)
        size = self._resized(*picture.size)
        left, top = (CROP_OFFSET[self.crop_offset]((side - self.image_size) / 2) for side in size)
        if self.sampling != "antialias":
            return self._sample(np.asarray(picture), size, (left, top))
        if size != picture.size:
            picture = picture.resize(size, INTERPOLATION[self.interpolation])
        return np.asarray(picture.crop((left, top, left + self.image_size, top + self.image_size)))

    def decode(self, pictures: Sequence[Readable | bytes]) -> np.ndarray:
        """Decode, resize and crop picture files. Returns uint8 (N, image_size, image_size, 3), RGB.

        Raises:
            DataError: one of them cannot be read.
        """
        return np.stack([self(open_picture(picture)) for picture in pictures])

    def _cut(self, picture: Image.Image) -> Image.Image:
        """Cut out what is resized."""
        if self.central_fraction < 1:  # as tf.image.central_crop rounds
            picture = _trim(picture, *(int((side - side * self.central_fraction) / 2) for side in picture.size))
        if self.fit == "square":
            shortest = min(picture.size)
            left, top = ((side - shortest) // 2 for side in picture.size)
            return picture.crop((left, top, left + shortest, top + shortest))
        return _shorten(picture) if (self.fit, self.sampling) == ("shortest", "antialias") else picture

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.fit != "shortest":
            return self.resize, self.resize
        if self.sampling == "asymmetric":
            # TensorFlow's official models multiply in float32, which loses a pixel of a side here and there.
            ratio = np.float32(self.resize) / np.float32(min(width, height))
            w, h = (max(int(np.float32(side) * ratio), self.image_size) for side in (width, height))
            return w, h
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def _sample(self, pixels: np.ndarray, size: tuple[int, int], start: tuple[int, int]) -> np.ndarray:
        """Resize (H, W, 3) to ``size`` and crop at ``start``, both (horizontal, vertical), without antialiasing."""
        shift = 0.5 if self.sampling == "half_pixel" else 0.0
        for axis in (0, 1) if pixels.shape[0] > pixels.shape[1] else (1, 0):  # the longer first: less memory
            side = pixels.shape[axis]
            places = (np.arange(self.image_size) + start[1 - axis] + shift) * (side / size[1 - axis]) - shift
            indices, weights = _taps(self.interpolation, places, side)
            weights = weights[..., None] if axis else weights[..., None, None]  # beside (H, W, 3)
            terms = (pixels.take(index, axis) * weight for index, weight in zip(indices, weights, strict=True))
            pixels = reduce(np.add, terms)
        rounded: np.ndarray = np.rint(pixels).clip(0, 255).astype(np.uint8)
        return rounded


def _taps(interpolation: str, places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels that each place is the mean of, and their float32 weights, both (2 or 4, places).

    Beyond the border there is nothing: what is within gets all of the weight.
    """
    reach = 1 if interpolation == "bilinear" else 2
    if interpolation == "bicubic":  # TensorFlow looks these weights up in a table of 1024 steps a pixel
        places = np.floor(places) + np.rint(places % 1 * 1024) / 1024
    indices = np.floor(places).astype(np.intp) + np.arange(1 - reach, 1 + reach)[:, None]
    distance = np.abs(places - indices)
    weights = 1 - distance
    if interpolation == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        weights = np.where(distance < 1, near, ((2.5 - 0.5 * distance) * distance - 4) * distance + 2)
    weights *= (indices >= 0) & (indices < side)
    return indices.clip(0, side - 1), (weights / weights.sum(axis=0)).astype(np.float32)


def _trim(picture: Image.Image, left: int, top: int) -> Image.Image:
    """Cut as much off the right as off the left, and off the bottom as off the top."""
    return picture.crop((left, top, picture.width - left, picture.height - top)) if left or top else picture


def _shorten(picture: Image.Image) -> Image.Image:
    """Cut the ends off a picture longer than ``_LONGEST`` times its width: resizing them whole could fill the memory.

    What remains is its middle, to the pixel, and far more than the central square and the filters' reach.
    """
    longest = _LONGEST * min(picture.size)
    return _trim(picture, *(max(side - longest, 0) // 2 for side in picture.size))


def open_picture(source: Readable | bytes, reduction: Callable[[int, int], int] | None = None) -> Image.Image:
    """Decode a picture file completely and return it as RGB, upright.

    JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF are Pillow's to decode, HEIF is pillow-heif's where that is installed.
    One rule for every mode: EXIF orientation is applied; transparency is composited on white; 16-bit grey is scaled
    to 8 bits; float grey is taken as 0 to 1 if all of it lies there, else as 0 to 255; palette, CMYK, YCbCr, grey and
    1-bit are converted; of an animation the first frame counts. The content decides the format, not the file's ending.
    A picture that claims more than MAX_PIXELS is refused from its header, before any pixel is decoded.

    Args:
        source: a path or another place, or the encoded bytes.
        reduction: asked before any pixel is decoded, with the upright width and height; a JPEG is decoded 1, 2, 4 or 8
            times smaller, as it answers (libjpeg's DCT scaling), if that moves no pixel; all else is decoded whole.

    Raises:
        DataError: unreadable, empty, truncated, too large, or no picture; the message says which, without the path.
    """
    data = _read(source)
    with _opened(data) as image:
        if reduction is not None:
            _reduce(image, reduction)
        return _finish(image)


def open_pixels(source: Readable | bytes, reduction: Callable[[int, int], int] | None = None) -> np.ndarray:
    """Return the pixels of ``open_picture``, uint8 (H, W, 3), to the bit; of most JPEGs sooner.

    simplejpeg decodes straight into the array where it is installed. Whatever it does not take, or finds fault with,
    is Pillow's to decode or to refuse. For training: one path less to trust where figures are made.
    """
    data = _read(source)
    with _opened(data) as image:
        full = image.size
        if reduction is not None:
            _reduce(image, reduction)
        pixels = _decode_jpeg(data, image, full)
        return np.asarray(_finish(image)) if pixels is None else pixels


def read_picture(source: Readable) -> bytes:
    """Return the bytes of a picture file.

    Raises:
        DataError: it cannot be read, is no regular file (a pipe would keep its reader waiting), or is larger than the
            largest picture allowed could be.
    """
    try:
        if isinstance(source, Path):
            _check_file(source.stat())
        return source.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(getattr(error, "strerror", None) or str(error)) from error


def _check_file(status: os.stat_result) -> None:
    """Refuse what no picture is read from; see ``read_picture``."""
    if stat.S_ISDIR(status.st_mode):
        raise DataError("a folder, and a picture file is expected here")
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file")
    if status.st_size > _MOST_BYTES:
        raise DataError(f"{status.st_size:,} bytes, more than the {_MOST_BYTES:,} allowed")


def _read(source: Readable | bytes) -> bytes:
    data = source if isinstance(source, bytes) else read_picture(source)
    if not data:
        raise DataError("the file is empty")
    return data


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Yield a picture whose header is read; what it raises in the block tells what is wrong with the file."""
    try:
        with open_header(data) as image:
            _check_budget(image)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"more than the {MAX_PIXELS:,} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"damaged picture: {str(error).strip() or type(error).__name__}") from error


def open_header(data: bytes) -> Image.Image:
    """Return a picture of which nothing is decoded but the header, by Pillow or, if it is HEIF, by pillow-heif.

    Raises:
        DataError: HEIF, and pillow-heif is not installed.
        OSError, SyntaxError, ValueError and others: what Pillow raises; see ``open_picture``.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF or b"avif" in data[16:48]:  # AVIF may be called mif1, too
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        from pillow_heif import HeifImageFile  # its class alone: registered, it would change what Image.open takes
    except ImportError as error:
        raise DataError('a HEIF picture, which needs pillow-heif: pip install "resnetv2[heif]"') from error
    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image


def _finish(image: Image.Image) -> Image.Image:
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _decode_jpeg(data: bytes, image: Image.Image, full: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels of an upright JPEG as large as ``image`` is drafted; None for what Pillow should look at.

    Args:
        data: the file.
        image: its header.
        full: width and height of the whole picture.
    """
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation(image) not in _TURNED
    if simplejpeg is None or not is_plain or min(full) < _BLOCK:
        return None
    width, height = image.size
    least = {} if image.size == full else {"min_width": width, "min_height": height}
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, buffer=np.empty((height, width, 3), np.uint8), **least)
    except ValueError:  # what libjpeg only warns of, and Pillow may take
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _check_budget(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width}×{image.height} pixels, more than the {MAX_PIXELS:,} allowed")


def _reduce(image: Image.Image, reduction: Callable[[int, int], int]) -> None:
    orientation = _orientation(image)
    size = image.size[::-1] if orientation in _ON_ITS_SIDE else image.size
    times = reduction(*size)
    is_whole = not any(side % times for side in size)  # else the last pixels are cut off, and turning brings them first
    if image.format == "JPEG" and times > 1 and (is_whole or orientation == 1):
        image.draft(None, (image.width // times, image.height // times))


def _orientation(image: Image.Image) -> int:
    orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        canvas = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, picture).convert("RGB")
    return image.convert("RGB")


def _to_uint8(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale one-channel numbers to 0 … 255: 16-bit by 255/65535, float as 0 … 1 or 0 … 255."""
    if mode == "F":
        if not np.isfinite(values).all():
            raise DataError("the picture holds NaN or infinite values")
        top = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return np.rint(np.clip(values.astype(np.float64) * top, 0, 255)).astype(np.uint8)
    table: np.ndarray = np.rint(np.arange(65536) * (255.0 / 65535.0)).astype(np.uint8)
    scaled: np.ndarray = table[values if values.dtype == np.uint16 else values.clip(0, 65535)]
    return scaled
