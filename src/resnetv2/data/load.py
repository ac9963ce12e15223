"""Batches of decoded pictures: the same ones for any number of worker threads, from any position of an epoch.

Every random choice about a sample comes from (seed, epoch, sample, how often it came before), so nothing needs to be
remembered to go on where a run stopped but the epoch and the number of batches taken.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from resnetv2.data.augment import Augment, View
from resnetv2.data.index import Samples
from resnetv2.data.sampling import ORDERS, count_repeats
from resnetv2.errors import DataError
from resnetv2.preprocess import Preprocessing, open_picture

_AHEAD = 3  # batches decoded before they are asked for, fewer where they would take more than …
_AHEAD_BYTES = 2**28
_AT_ONCE = 8  # pictures a thread takes in one go at most: handing over tiny ones singly costs as much as decoding them
_OBJECT_BYTES = 256  # what Python adds to a kept array


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 (N, H, W, 3) RGB, their labels int64 (N,), and their places in the samples.

    ``elsewhere`` is the number of pictures that other processes have of the same batch.
    """

    pictures: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    elsewhere: int = 0

    @property
    def total(self) -> int:
        """Pictures of the batch in all processes together."""
        return len(self.labels) + self.elsewhere


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of a batch, and of a split that is evaluated.

    A batch that is computed in parts has the same parts whatever the number of processes: each takes a piece of each.

    Attributes:
        rank: the process, counted from 0.
        size: how many there are.
        parts: that a batch is computed in.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1

    def counts(self, n: int) -> list[int]:
        """Return how many pictures of each part of a batch of n are this process's."""
        return [len(piece) for piece in self._pieces(n)]

    def places(self, n: int) -> np.ndarray:
        """Return which of n pictures are this process's, int64, those of one part after those of another."""
        return np.concatenate(self._pieces(n))

    def stretch(self, n: int) -> slice:
        """Return which of n batches that are evaluated are this process's, whole: a batch of other size rounds anew."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def _pieces(self, n: int) -> list[np.ndarray]:
        parts = np.array_split(np.arange(n), self.parts)
        return [np.array_split(part, self.size)[self.rank] for part in parts]


class Budget:
    """Bytes of memory that loaders may fill with decoded pictures, shared among them.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Spend ``size`` bytes, if they are left."""
        with self._lock:
            fits = size <= self.left
            self.left -= size if fits else 0
            return fits


class Loader:
    """Batches of one split.

    Args:
        samples: the pictures.
        batch_size: the most pictures in a batch; all batches are of one size, or differ by one.
        preprocessing: what is done to a picture when it is not augmented, and the size when it is.
        augment: None for evaluation: every picture once, in order.
        seed: of order and augmentation.
        workers: decoding threads.
        budget: of memory for decoded pictures, so that later epochs need not decode them; None keeps none. Those of
            less than twice the network's side are kept until the budget is spent, and then for good: an epoch wants
            each once, so whatever is dropped for another is missed the next time.
        sampling: a key of ORDERS, for augmented pictures: "natural" takes each once an epoch, "balanced" as many in
            all, but from every class equally many.
        share: what of it is this process's: a piece of every augmented batch, or of the others every so many whole.
        least: pictures that an augmented batch must have, if need be by holding more than ``batch_size``.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: int = 0,
        workers: int | None = None,
        budget: Budget | None = None,
        sampling: str = "natural",
        share: Share | None = None,
        least: int = 2,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.workers = workers or min(os.cpu_count() or 1, 8)
        self.budget = budget or Budget(0)
        bounds = batch_bounds(len(samples), batch_size, least=1 if augment is None else least)
        self.share = share or Share()
        self.bounds = bounds if augment is not None else bounds[self.share.stretch(len(bounds))]
        self.order = ORDERS[sampling]
        self.seconds = 0.0  # that threads have worked, all of them together
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.bounds)

    def batches(self, epoch: int = 0, start: int = 0, size: int | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on.

        Args:
            epoch: counted from 0.
            start: batches to leave out.
            size: side of augmented pictures; None is the preprocessing's.

        Raises:
            DataError: a picture cannot be read; the message names it.
        """
        order = (
            np.arange(len(self.samples))
            if self.augment is None
            else self.order(self.samples.labels, np.random.default_rng((self.seed, epoch, 0)))
        )
        repeats = count_repeats(order)
        side = self.preprocessing.image_size if size is None else size
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
            try:
                for low, high in self.bounds[start:]:
                    mine = self._own(low, high)
                    waiting.append(self._begin(pool, order[mine], repeats[mine], epoch, side, high - low - len(mine)))
                    if len(waiting) > _ahead(len(mine) * 3 * side**2):
                        yield _finish(*waiting.popleft())
                while waiting:
                    yield _finish(*waiting.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _own(self, low: int, high: int) -> np.ndarray:
        """Return this process's places of a batch."""
        return np.arange(low, high) if self.augment is None else low + self.share.places(high - low)

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        indices: np.ndarray,
        repeats: np.ndarray,
        epoch: int,
        side: int,
        elsewhere: int,
    ) -> tuple[Batch, list[Future[None]]]:
        pictures = np.empty((len(indices), side, side, 3), np.uint8)
        batch = Batch(pictures, self.samples.labels[indices], indices, elsewhere)
        step = max(1, min(_AT_ONCE, len(indices) // self.workers))
        parts = [range(low, min(low + step, len(indices))) for low in range(0, len(indices), step)]
        return batch, [pool.submit(self._fill, batch, part, repeats, epoch) for part in parts]

    def _fill(self, batch: Batch, places: range, repeats: np.ndarray, epoch: int) -> None:
        began = time.perf_counter()
        for place in places:
            batch.pictures[place] = self._picture(
                int(batch.indices[place]), int(repeats[place]), epoch, batch.pictures.shape[1]
            )
        with self._lock:
            self.seconds += time.perf_counter() - began

    def _picture(self, index: int, repeat: int, epoch: int, size: int) -> np.ndarray:
        kept = self._kept.get(index)
        if self.augment is None:
            return self._keep(index, self.preprocessing(self._open(index))) if kept is None else kept
        rng = np.random.default_rng((self.seed, epoch, 1, index, *([repeat] if repeat else [])))
        if kept is not None:
            return self.augment(Image.fromarray(kept), size, rng)
        small = 2 * self.preprocessing.image_size
        view = View(self.augment, size, rng, small)
        picture = self._open(index, view)
        if max(view.full) < small:  # these are all of its pixels
            self._keep(index, np.asarray(picture))
        return view.cut(picture)

    def _open(self, index: int, view: View | None = None) -> Image.Image:
        path = self.samples.paths[index]
        try:
            return open_picture(path, None if view is None else view.choose)
        except DataError as error:
            raise DataError(f"cannot read {path}: {error}") from error

    def _keep(self, index: int, pixels: np.ndarray) -> np.ndarray:
        with self._lock:  # a balanced epoch may have two threads decode one picture at once
            if index not in self._kept and self.budget.take(pixels.nbytes + _OBJECT_BYTES):
                self._kept[index] = pixels.copy()  # it may be a part of something larger
        return pixels


def _ahead(size: int) -> int:
    """Return how many batches of ``size`` bytes are decoded before they are asked for."""
    return max(1, min(_AHEAD, _AHEAD_BYTES // size))


def _finish(batch: Batch, futures: list[Future[None]]) -> Batch:
    for future in futures:
        future.result()
    return batch


def batch_bounds(count: int, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut ``count`` samples into as few batches as ``batch_size`` allows, all of one size or differing by one.

    A small last batch would give batch norm poor statistics just before they are used. Batches hold at least ``least``
    samples (batch norm needs two), if need be by holding one more than ``batch_size``.
    """
    if count == 0:
        return []
    number = max(min(-(-count // batch_size), count // least), 1)
    return list(pairwise(count * i // number for i in range(number + 1)))
