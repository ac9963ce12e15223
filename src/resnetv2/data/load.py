"""Batches of decoded pictures: the same ones for any number of worker threads, from any position of an epoch.

Every random choice about a sample comes from (seed, epoch, sample), so nothing needs to be remembered to go on where a
run stopped but the epoch and the number of batches taken.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

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
    """Random resized crop and mirror image (Szegedy et al. 2014, arXiv 1409.4842)."""

    scale: tuple[float, float]  # share of the picture's area that the crop keeps
    ratio: tuple[float, float]  # width / height of the crop
    hflip: float  # probability of a mirror image

    def __call__(self, picture: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (size, size, 3) cut from an RGB picture."""
        box = self._box(picture.width, picture.height, rng)
        out = picture.resize(
            (size, size), Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.BICUBIC, box
        )
        pixels = np.asarray(out)
        return pixels[:, ::-1] if rng.random() < self.hflip else pixels

    def _box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        share = rng.uniform(*self.scale)
        ratio = np.exp(rng.uniform(*np.log(self.ratio)))
        w = min(max(np.sqrt(share * width * height * ratio), 1), width)
        h = min(max(np.sqrt(share * width * height / ratio), 1), height)
        left, top = rng.random() * (width - w), rng.random() * (height - h)
        return float(left), float(top), float(left + w), float(top + h)


class Loader:
    """Batches of one split.

    Args:
        samples: the pictures.
        batch_size: pictures a batch; the last one is smaller, and one left over joins the batch before it.
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
        self.bounds = batch_bounds(len(samples), batch_size)

    def __len__(self) -> int:
        return len(self.bounds)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on.

        Raises:
            DataError: a picture cannot be read; the message names it.
        """
        count = len(self.samples)
        order = (
            np.arange(count) if self.augment is None else np.random.default_rng((self.seed, epoch)).permutation(count)
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
        return self.augment(picture, self.preprocessing.image_size, np.random.default_rng((self.seed, epoch, index)))


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut ``count`` samples into batches; a last batch of one joins the one before, because batch norm needs two."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(pairwise([*starts, count]))


def read_bytes(path: Path) -> bytes:
    """Return the encoded bytes of a picture file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
