"""Pictures for golden samples, made from numbers: what a checkpoint without data is proven with."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_SIZES = ((97, 61), (3, 7), (33, 33))  # (width, height) in blocks or pixels: wide, tall, square


def golden_pictures(image_size: int) -> tuple[bytes, ...]:
    """Return three PNG files of random colours, always the same: wide, tall and smaller than the network's input.

    The wide one has blocks of several pixels, the tall one a smooth gradient between random colours, the small one a
    random colour in each pixel. They shrink, keep and grow when they are resized to ``image_size`` pixels.
    """
    generator = np.random.default_rng(0)
    wide, tall, small = (
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in _SIZES
    )
    scale = max(1, image_size // 32)
    wide = wide.resize((wide.width * scale, wide.height * scale), Image.Resampling.NEAREST)
    tall = tall.resize((image_size, 2 * image_size), Image.Resampling.BICUBIC)
    return tuple(to_png(picture) for picture in (wide, tall, small))


def to_png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
