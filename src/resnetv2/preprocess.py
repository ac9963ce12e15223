"""From the bytes of a picture file to the pixels a network sees. NumPy and Pillow only; the only implementation.

Training, evaluation, prediction and verification all decode with ``open_picture``. What happens after decoding is a
``Preprocessing``, which travels inside the model file and cannot be separated from the weights.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnetv2.errors import ConfigError, DataError, unknown
from resnetv2.plain import Plain

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
MAX_PIXELS = 89_478_485  # 0.25 GiB of RGB, the size at which Pillow itself begins to warn
MAX_SIDE = 8192  # of what a network is given
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
_LONGEST = 32  # times the short side
INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
FITS = ("shortest", "squash")

_ON_ITS_SIDE = range(5, 9)  # EXIF orientations that swap width and height

Image.init()  # every plugin, now: Pillow would load them at the first rare format, which is not safe among threads


class Readable(Protocol):
    """Where the bytes of a picture file are: a path, or a place inside a larger file."""

    def read_bytes(self) -> bytes:
        """Return all of them. Raises OSError or DataError."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Plain):
    """How an RGB picture becomes the network's input.

    The picture is resized so that its shortest side ("shortest") or both sides ("squash") have ``resize`` pixels, with
    Pillow's antialiased filters; the central square of ``image_size`` pixels is cut out; then (pixel - mean) / std, in
    units of 0 to 255, channels in RGB order.

    Raises:
        ConfigError: naming the field that is out of range.
    """

    noun = "preprocessing field"

    image_size: int = 224
    resize: int = 224
    fit: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        problems = list(self._mistyped())
        if problems:
            raise ConfigError("; ".join(problems))
        if not 1 <= self.image_size <= self.resize <= MAX_SIDE:
            got = f"got {self.image_size} with resize {self.resize}"
            raise ConfigError(f"image_size must lie in 1 … resize, and resize be at most {MAX_SIDE}, {got}")
        if self.fit not in FITS:
            raise ConfigError(f"fit must be one of {', '.join(map(repr, FITS))}, got {self.fit!r}")
        if self.interpolation not in INTERPOLATION:
            raise ConfigError(unknown("interpolation", self.interpolation, INTERPOLATION))
        numbers = [type(v) in (int, float) and math.isfinite(v) for v in (*self.mean, *self.std)]
        if len(self.mean) != 3 or len(self.std) != 3 or not all(numbers) or min(self.std) <= 0:
            raise ConfigError(f"mean and std must be three numbers, std above 0, got {self.mean!r} and {self.std!r}")

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Resize and crop an RGB picture. Returns uint8 (image_size, image_size, 3), RGB."""
        if self.fit == "shortest":
            picture = _shorten(picture)
        width, height = self._resized(picture.width, picture.height)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), INTERPOLATION[self.interpolation])
        left, top = round((width - self.image_size) / 2), round((height - self.image_size) / 2)
        return np.asarray(picture.crop((left, top, left + self.image_size, top + self.image_size)))

    def decode(self, pictures: Sequence[Readable | bytes]) -> np.ndarray:
        """Decode, resize and crop picture files. Returns uint8 (N, image_size, image_size, 3), RGB.

        Raises:
            DataError: one of them cannot be read.
        """
        return np.stack([self(open_picture(picture)) for picture in pictures])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.resize, self.resize
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize


def _shorten(picture: Image.Image) -> Image.Image:
    """Cut the ends off a picture longer than ``_LONGEST`` times its width: resizing them whole could fill the memory.

    What remains is its middle, to the pixel, and far more than the central square and the filters' reach.
    """
    longest = _LONGEST * min(picture.size)
    left, top = (max(side - longest, 0) // 2 for side in picture.size)
    return picture.crop((left, top, picture.width - left, picture.height - top)) if left or top else picture


def open_picture(source: Readable | bytes, reduction: Callable[[int, int], int] | None = None) -> Image.Image:
    """Decode a picture file completely and return it as RGB, upright.

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
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(getattr(error, "strerror", None) or str(error)) from error
    if not data:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_budget(image)
            if reduction is not None:
                _reduce(image, reduction)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"more than the {MAX_PIXELS:,} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"damaged picture: {error or type(error).__name__}") from error


def _check_budget(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width}×{image.height} pixels, more than the {MAX_PIXELS:,} allowed")


def _reduce(image: Image.Image, reduction: Callable[[int, int], int]) -> None:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    size = image.size[::-1] if orientation in _ON_ITS_SIDE else image.size
    times = reduction(*size)
    is_whole = not any(side % times for side in size)  # else the last pixels are cut off, and turning brings them first
    if image.format == "JPEG" and times > 1 and (is_whole or orientation == 1):
        image.draft(None, (image.width // times, image.height // times))


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
    else:
        top = 255.0 / 65535.0
    return np.rint(np.clip(values.astype(np.float64) * top, 0, 255)).astype(np.uint8)
