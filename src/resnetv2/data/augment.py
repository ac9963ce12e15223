"""What is drawn at random for each picture in training: crop, mirror image, colours and shape, an erased patch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnetv2.data.autoaugment import policy

_REDUCTIONS = (8, 4, 2)  # that libjpeg decodes at, strongest first

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Resize = Callable[[np.ndarray, Box, int, bool], np.ndarray]


def resize_box(pixels: np.ndarray, box: Box, size: int, bicubic: bool) -> np.ndarray:
    """Return uint8 (size, size, 3) of a box within uint8 (H, W, 3), antialiased, by Pillow.

    Args:
        pixels: RGB.
        box: what is resized, to fractions of a pixel.
        size: side of the result.
        bicubic: or bilinear.
    """
    interpolation = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((size, size), interpolation, box))


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random resized crop and mirror image (Szegedy et al. 2014, arXiv 1409.4842), and more where it is asked for.

    A crop larger than the picture zooms out: what lies outside takes the median colour of the picture's border, so that
    a character on paper gets more paper.
    """

    scale: tuple[float, float]  # area of the crop, as a share of the picture's
    ratio: tuple[float, float]  # width / height of the crop
    hflip: float  # probability of a mirror image
    auto_augment: str = "none"  # or the name of a policy
    random_erasing: float = 0.0  # probability of an erased patch
    dct_scaling: bool = False  # whether a JPEG may be decoded smaller where the crop keeps enough pixels
    resize: Resize = resize_box

    def __call__(self, pixels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (size, size, 3) cut from a whole picture, uint8 (H, W, 3)."""
        view = View(self, size, rng)
        view.choose(pixels.shape[1], pixels.shape[0])
        return view.cut(pixels)

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw a crop of a picture; return its left, top, right and bottom in pixels, outside the picture or within."""
        share = rng.uniform(*self.scale)
        ratio = np.exp(rng.uniform(*np.log(self.ratio)))
        beyond = max(1.0, share)  # a crop within the picture's area stays within its sides
        w = min(max(np.sqrt(share * width * height * ratio), 1), width * beyond)
        h = min(max(np.sqrt(share * width * height / ratio), 1), height * beyond)
        left, top = rng.random() * (width - w), rng.random() * (height - h)
        return float(left), float(top), float(left + w), float(top + h)


class View:
    """One random view of one picture: chosen when its size is known, cut when its pixels are.

    Args:
        augment: what may be chosen.
        size: side of the view in pixels.
        rng: the source of every choice.
        small: pictures with no side of as many pixels are decoded whole: a loader may keep them for other views.
    """

    def __init__(self, augment: Augment, size: int, rng: np.random.Generator, small: int = 0) -> None:
        self.augment, self.size, self.rng, self.small = augment, size, rng, small
        self.full, self.box, self.reduction = (0, 0), (0.0, 0.0, 0.0, 0.0), 1

    def choose(self, width: int, height: int) -> int:
        """Draw the crop; return how many times smaller a JPEG may be decoded, so that no pixel of the view is missed.

        Both the picture and the crop keep at least as many pixels each way as the view has: it is still made by
        shrinking, never by enlarging.
        """
        self.full = width, height
        left, top, right, bottom = self.box = self.augment.box(width, height, self.rng)
        times = min(right - left, bottom - top, width, height) / self.size
        if self.augment.dct_scaling and max(self.full) >= self.small:
            self.reduction = next((r for r in _REDUCTIONS if times >= r), 1)
        return self.reduction

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Return uint8 (size, size, 3) of the picture, uint8 (H, W, 3), whole or decoded smaller."""
        augment, rng = self.augment, self.rng
        out = self._crop(pixels)
        if rng.random() < augment.hflip:
            out = out[:, ::-1]
        if augment.auto_augment != "none":
            out = np.asarray(policy(augment.auto_augment)(Image.fromarray(out), rng))
        if augment.random_erasing and rng.random() < augment.random_erasing:
            out = erase(out, rng)
        return out

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        times = 1 if (width, height) == self.full else self.reduction
        left, top, right, bottom = (side / times for side in self.box)
        beyond = (-left, -top, right - width, bottom - height)
        before_x, before_y, after_x, after_y = (
            math.ceil(side) if side > 1e-6 else 0 for side in beyond
        )  # less: rounding
        if before_x or before_y or after_x or after_y:
            canvas = np.empty((before_y + height + after_y, before_x + width + after_x, 3), np.uint8)
            canvas[:] = border_colour(pixels)
            canvas[before_y : before_y + height, before_x : before_x + width] = pixels
            pixels = canvas
        left, top = max(left + before_x, 0.0), max(top + before_y, 0.0)
        right, bottom = min(right + before_x, pixels.shape[1]), min(bottom + before_y, pixels.shape[0])
        bicubic = bool(self.rng.random() < 0.5)
        return self.augment.resize(pixels, (left, top, right, bottom), self.size, bicubic)


def border_colour(pixels: np.ndarray) -> tuple[int, int, int]:
    """Return the median of each channel over the outermost pixels of uint8 (H, W, 3)."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(edge, axis=0)
    return int(red), int(green), int(blue)


def erase(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (H, W, 3) with one patch of random pixels (Zhong et al. 2017, arXiv 1708.04896, algorithm 1).

    The patch covers 2 % to 40 % of the area, its height is 0.3 to 1/0.3 of its width, and it lies within the picture.
    """
    height, width = pixels.shape[:2]
    for _ in range(100):  # a patch that does not fit is drawn again
        area, ratio = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        if h and w and top + h <= height and left + w <= width:
            out = pixels.copy()
            out[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3), np.uint8)
            return out
    return pixels
