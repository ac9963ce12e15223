"""TrivialAugment and RandAugment: random changes of colour and shape, on uint8 RGB pictures, by Pillow.

Both draw from the fourteen operations of RandAugment. Strength 0 leaves a picture (nearly) as it is and 1 is the end of
an operation's range. What a turned or moved picture uncovers is grey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)
_STEPS = 30  # TrivialAugment's strengths are 0/30 … 30/30


@dataclass(frozen=True)
class Ranges:
    """How far each operation goes at strength 1."""

    degrees: float  # of rotation, either way
    shear: float  # pixels along for each pixel across, either way
    pixels: float  # of translation, either way; below 1 a share of the side
    bits: int  # left of eight by posterize
    factor: tuple[float, float]  # of colour, contrast, brightness and sharpness, at strength 0 and 1; 1 is unchanged

    def shift(self, side: int) -> float:
        """Return the pixels of translation for a picture's side."""
        return self.pixels * side if self.pixels < 1 else self.pixels

    def blend(self, strength: float) -> float:
        """Return the factor of colour, contrast, brightness and sharpness."""
        low, high = self.factor
        return low + strength * (high - low)


WIDE = Ranges(135, 0.99, 32, 2, (0.01, 2.0))  # TrivialAugment's wide ranges (arXiv 2103.10158)
NARROW = Ranges(30, 0.3, 150 / 331, 4, (0.1, 1.9))  # AutoAugment's (arXiv 1805.09501), RandAugment's too


def _affine(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=GREY)


# Each takes the picture, the strength (negative for the other way where there are two) and the ranges.
_Operation = Callable[[Image.Image, float, Ranges], Image.Image]
_TWO_WAYS: dict[str, _Operation] = {
    "rotate": lambda p, s, r: p.rotate(s * r.degrees, fillcolor=GREY),
    "shear_x": lambda p, s, r: _affine(p, 1, s * r.shear, 0, 0, 1, 0),
    "shear_y": lambda p, s, r: _affine(p, 1, 0, 0, s * r.shear, 1, 0),
    "translate_x": lambda p, s, r: _affine(p, 1, 0, int(s * r.shift(p.width)), 0, 1, 0),
    "translate_y": lambda p, s, r: _affine(p, 1, 0, 0, 0, 1, int(s * r.shift(p.height))),
}
OPERATIONS: dict[str, _Operation] = {
    "identity": lambda p, _s, _r: p,
    "autocontrast": lambda p, _s, _r: ImageOps.autocontrast(p),
    "equalize": lambda p, _s, _r: ImageOps.equalize(p),
    "solarize": lambda p, s, _r: ImageOps.solarize(p, 256 - int(s * 256)),
    "posterize": lambda p, s, r: ImageOps.posterize(p, 8 - int(s * (8 - r.bits))),
    "color": lambda p, s, r: ImageEnhance.Color(p).enhance(r.blend(s)),
    "contrast": lambda p, s, r: ImageEnhance.Contrast(p).enhance(r.blend(s)),
    "brightness": lambda p, s, r: ImageEnhance.Brightness(p).enhance(r.blend(s)),
    "sharpness": lambda p, s, r: ImageEnhance.Sharpness(p).enhance(r.blend(s)),
    **_TWO_WAYS,
}
_NAMES = tuple(OPERATIONS)


def trivial_augment(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply one operation at one strength, both uniformly drawn (Müller and Hutter 2021, arXiv 2103.10158), wide."""
    return _operate(picture, int(rng.integers(_STEPS + 1)) / _STEPS, WIDE, rng)


def rand_augment(picture: Image.Image, rng: np.random.Generator, magnitude: int = 9) -> Image.Image:
    """Apply N = 2 operations uniformly drawn, at M of 10 (Cubuk et al. 2019, arXiv 1909.13719; 9 is for ResNet-50)."""
    for _ in range(2):
        picture = _operate(picture, magnitude / 10, NARROW, rng)
    return picture


def _operate(picture: Image.Image, strength: float, ranges: Ranges, rng: np.random.Generator) -> Image.Image:
    name = _NAMES[int(rng.integers(len(_NAMES)))]
    backwards = name in _TWO_WAYS and rng.random() < 0.5
    return OPERATIONS[name](picture, -strength if backwards else strength, ranges)


Policy = Callable[[Image.Image, np.random.Generator], Image.Image]


def policy(name: str) -> Policy:
    """Return the changes of that name: "trivial", "rand", or "rand-m0" … "rand-m10" for RandAugment's strength."""
    if name == "trivial":
        return trivial_augment
    _, _, magnitude = name.partition("-m")
    return partial(rand_augment, magnitude=int(magnitude)) if magnitude else rand_augment
