"""Batches of decoded pictures: the same ones for any number of worker threads, from any position of an epoch.

Every random choice about a sample comes from (seed, epoch, sample), so nothing needs to be remembered to go on where a
run stopped but the epoch and the number of batches taken.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageOps

from resnetv2.data.index import Samples
from resnetv2.errors import DataError
from resnetv2.preprocess import Preprocessing, open_picture

_AHEAD = 3  # batches decoded before they are asked for


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 (N, H, W, 3) RGB, their labels int64 (N,), and their places in the samples."""

    pictures: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random resized crop and mirror image (Szegedy et al. 2014, arXiv 1409.4842).

    A crop larger than the picture zooms out: what lies outside takes the median colour of the picture's border, so that
    a character on paper gets more paper.
    """

    scale: tuple[float, float]  # area of the crop, as a share of the picture's
    ratio: tuple[float, float]  # width / height of the crop
    hflip: float  # probability of a mirror image

    def __call__(self, picture: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (size, size, 3) cut from an RGB picture."""
        left, top, right, bottom = self._box(picture.width, picture.height, rng)
        beyond = (-left, -top, right - picture.width, bottom - picture.height)
        border = tuple(math.ceil(side) if side > 1e-6 else 0 for side in beyond)  # less is rounding
        if any(border):
            picture = ImageOps.expand(picture, border, border_colour(picture))
        left, top = max(left + border[0], 0.0), max(top + border[1], 0.0)
        right, bottom = min(right + border[0], picture.width), min(bottom + border[1], picture.height)
        box = (left, top, right, bottom)
        filters = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
        out = picture.resize((size, size), filters[int(rng.random() < 0.5)], box)
        pixels = np.asarray(out)
        return pixels[:, ::-1] if rng.random() < self.hflip else pixels

    def _box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        share = rng.uniform(*self.scale)
        ratio = np.exp(rng.uniform(*np.log(self.ratio)))
        beyond = max(1.0, share)  # a crop within the picture's area stays within its sides
        w = min(max(np.sqrt(share * width * height * ratio), 1), width * beyond)
        h = min(max(np.sqrt(share * width * height / ratio), 1), height * beyond)
        left, top = rng.random() * (width - w), rng.random() * (height - h)
        return float(left), float(top), float(left + w), float(top + h)


def border_colour(picture: Image.Image) -> tuple[int, int, int]:
    """Return the median of each channel over the outermost pixels of an RGB picture."""
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(edge, axis=0)
    return int(red), int(green), int(blue)


class Loader:
    """Batches of one split.

    Args:
        samples: the pictures.
        batch_size: the most pictures in a batch; all batches are of one size, or differ by one.
        preprocessing: what is done to a picture when it is not augmented, and the size when it is.
        augment: None for evaluation: every picture once, in order.
        seed: of order and augmentation.
        workers: decoding threads.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.bounds = batch_bounds(len(samples), batch_size, least=1 if augment is None else 2)

    def __len__(self) -> int:
        return len(self.bounds)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on.

        Raises:
            DataError: a picture cannot be read; the message names it.
        """
        count = len(self.samples)
        order = (
            np.arange(count)
            if self.augment is None
            else np.random.default_rng((self.seed, epoch, 0)).permutation(count)
        )
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()
            try:
                for low, high in self.bounds[start:]:
                    indices = order[low:high]
                    waiting.append((indices, [pool.submit(self._picture, int(i), epoch) for i in indices]))
                    if len(waiting) > _AHEAD:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, indices: np.ndarray, futures: list[Future[np.ndarray]]) -> Batch:
        return Batch(np.stack([f.result() for f in futures]), self.samples.labels[indices], indices)

    def _picture(self, index: int, epoch: int) -> np.ndarray:
        path = self.samples.paths[index]
        try:
            picture = open_picture(path)
        except DataError as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if self.augment is None:
            return self.preprocessing(picture)
        return self.augment(picture, self.preprocessing.image_size, np.random.default_rng((self.seed, epoch, 1, index)))


def batch_bounds(count: int, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut ``count`` samples into as few batches as ``batch_size`` allows, all of one size or differing by one.

    A small last batch would give batch norm poor statistics just before they are used. Batches hold at least ``least``
    samples (batch norm needs two), if need be by holding one more than ``batch_size``.
    """
    if count == 0:
        return []
    number = max(min(-(-count // batch_size), count // least), 1)
    return list(pairwise(count * i // number for i in range(number + 1)))
