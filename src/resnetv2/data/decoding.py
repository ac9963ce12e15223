"""One picture for a batch: decoded, and cut at random in training. Plain values, which any thread or process takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnetv2.data.augment import Augment, View
from resnetv2.errors import DataError
from resnetv2.preprocess import Preprocessing, Readable, open_picture, open_pixels


class Task(NamedTuple):
    """One picture to decode: its number in the samples, where it is, and what its random choices come from."""

    number: int
    place: Readable
    draw: tuple[int, ...]


@dataclass(frozen=True)
class Decoder:
    """What makes a picture into what the network sees.

    Args:
        preprocessing: what is done to a picture when it is not augmented.
        augment: None for evaluation.
        size: side in pixels of what is made.
    """

    preprocessing: Preprocessing
    augment: Augment | None
    size: int

    def __call__(self, task: Task, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a picture, uint8 (size, size, 3), and what to keep so that it need not be decoded again.

        Args:
            task: the picture.
            kept: what an earlier call gave to keep.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        small = 2 * self.preprocessing.image_size  # what may be kept has no side of as many pixels
        try:
            if self.augment is None:
                seen = self.preprocessing(open_picture(task.place)) if kept is None else kept
                return seen, seen
            rng = np.random.default_rng(task.draw)
            if kept is not None:
                return self.augment(kept, self.size, rng), kept
            view = View(self.augment, self.size, rng, small)
            pixels = open_pixels(task.place, view.choose)
        except DataError as error:
            raise DataError(f"cannot read {task.place}: {error}") from error
        return view.cut(pixels), pixels if max(view.full) < small else None
