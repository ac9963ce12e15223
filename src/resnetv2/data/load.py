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
        share: what of it is this process's: a piece of every augmented batch, or of the others every so many whole.
        least: pictures that an augmented batch must have, if need be by holding more than ``batch_size``.
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
        share: Share | None = None,
        least: int = 2,
        worker_type: str = "threads",
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.workers = workers or min(os.cpu_count() or 1, 8)
        threads = Threads(self.workers, budget or Budget(0))
        self.crew = Processes(self.workers, threads) if worker_type == "processes" else threads
        bounds = batch_bounds(len(samples), batch_size, least=1 if augment is None else least)
        self.share = share or Share()
        self.bounds = bounds if augment is not None else bounds[self.share.stretch(len(bounds))]
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
        if not bounds:  # a run that was stopped after the last step of an epoch goes on here
            return
        side = self.preprocessing.image_size if size is None else size
        decoder = Decoder(self.preprocessing, self.augment, side)
        largest = max(high - low for low, high in bounds) * 3 * side**2
        ahead = max(1, min(_AHEAD, _AHEAD_BYTES // max(largest, 1)))
        waiting: deque[tuple[np.ndarray, int, Finish]] = deque()
        with self.crew.at_work(ahead + 1, largest) as begin:
            for low, high in bounds:
                mine = self._own(low, high)
                tasks = self._tasks(order[mine], repeats[mine], epoch)
                waiting.append((order[mine], high - low - len(mine), begin(decoder, tasks)))
                if len(waiting) > ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    @property
    def seconds(self) -> float:
        """What the workers have worked, all of them together."""
        return self.crew.seconds

    def _own(self, low: int, high: int) -> np.ndarray:
        """Return this process's places of a batch."""
        return np.arange(low, high) if self.augment is None else low + self.share.places(high - low)

    def _tasks(self, indices: np.ndarray, repeats: np.ndarray, epoch: int) -> list[Task]:
        tasks = []
        for index, repeat in zip(indices.tolist(), repeats.tolist(), strict=True):
            draw = (self.seed, epoch, 1, index, *([repeat] if repeat else []))
            tasks.append(Task(index, self.samples.paths[index], draw))
        return tasks

    def _finish(self, indices: np.ndarray, elsewhere: int, finish: Finish) -> Batch:
        return Batch(finish(), self.samples.labels[indices], indices, elsewhere)


def batch_bounds(count: int, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut ``count`` samples into as few batches as ``batch_size`` allows, all of one size or differing by one.

    A small last batch would give batch norm poor statistics just before they are used. Batches hold at least ``least``
    samples (batch norm needs two), if need be by holding one more than ``batch_size``.
    """
    if count == 0:
        return []
    number = max(min(-(-count // batch_size), count // least), 1)
    return list(pairwise(count * i // number for i in range(number + 1)))
