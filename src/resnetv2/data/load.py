"""Batches of decoded pictures: the same ones for any number of workers, from any position of an epoch.

Every random choice about a sample comes from (seed, epoch, sample, how often it came before), so nothing needs to be
remembered to go on where a run stopped but the epoch and the number of batches taken.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from resnetv2.data.augment import Augment
from resnetv2.data.crews import Budget, Finish, Processes, Threads
from resnetv2.data.decoding import Decoder, Task
from resnetv2.data.index import Samples
from resnetv2.data.sampling import ORDERS, count_repeats
from resnetv2.preprocess import Preprocessing

_AHEAD = 3  # batches decoded before they are asked for, fewer where they would take more than …
_AHEAD_BYTES = 2**28


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 (N, H, W, 3) RGB, their labels int64 (N,), and their places in the samples."""

    pictures: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


class Loader:
    """Batches of one split.

    Args:
        samples: the pictures.
        batch_size: the most pictures in a batch; all batches are of one size, or differ by one.
        preprocessing: what is done to a picture when it is not augmented, and the size when it is.
        augment: None for evaluation: every picture once, in order.
        seed: of order and augmentation.
        workers: how many decode.
        budget: of memory for decoded pictures, so that later epochs need not decode them; None keeps none. Those of
            less than twice the network's side are kept until the budget is spent, and then for good: an epoch wants
            each once, so whatever is dropped for another is missed the next time.
        sampling: a key of ORDERS, for augmented pictures: "natural" takes each once an epoch, "balanced" as many in
            all, but from every class equally many.
        worker_type: "threads", or "processes" of their own, which keep nothing decoded.
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
        worker_type: str = "threads",
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.workers = workers or min(os.cpu_count() or 1, 8)
        threads = Threads(self.workers, budget or Budget(0))
        self.crew = Processes(self.workers, threads) if worker_type == "processes" else threads
        self.bounds = batch_bounds(len(samples), batch_size, least=1 if augment is None else 2)
        self.order = ORDERS[sampling]

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
        bounds = self.bounds[start:]
        side = self.preprocessing.image_size if size is None else size
        decoder = Decoder(self.preprocessing, self.augment, side)
        largest = max((high - low for low, high in bounds), default=0) * 3 * side**2
        ahead = max(1, min(_AHEAD, _AHEAD_BYTES // max(largest, 1)))
        waiting: deque[tuple[np.ndarray, Finish]] = deque()
        with self.crew.at_work(ahead + 1, largest) as begin:
            for low, high in bounds:
                tasks = self._tasks(order[low:high], repeats[low:high], epoch)
                waiting.append((order[low:high], begin(decoder, tasks)))
                if len(waiting) > ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    @property
    def seconds(self) -> float:
        """What the workers have worked, all of them together."""
        return self.crew.seconds

    def _tasks(self, indices: np.ndarray, repeats: np.ndarray, epoch: int) -> list[Task]:
        tasks = []
        for index, repeat in zip(indices.tolist(), repeats.tolist(), strict=True):
            draw = (self.seed, epoch, 1, index, *([repeat] if repeat else []))
            tasks.append(Task(index, self.samples.paths[index], draw))
        return tasks

    def _finish(self, indices: np.ndarray, finish: Finish) -> Batch:
        return Batch(finish(), self.samples.labels[indices], indices)


def batch_bounds(count: int, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut ``count`` samples into as few batches as ``batch_size`` allows, all of one size or differing by one.

    A small last batch would give batch norm poor statistics just before they are used. Batches hold at least ``least``
    samples (batch norm needs two), if need be by holding one more than ``batch_size``.
    """
    if count == 0:
        return []
    number = max(min(-(-count // batch_size), count // least), 1)
    return list(pairwise(count * i // number for i in range(number + 1)))
