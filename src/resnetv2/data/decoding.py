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
        preprocessing: what is done to a picture when it is not augmented, and the size when it is.
        augment: None for evaluation.
    """

    preprocessing: Preprocessing
    augment: Augment | None

    def __call__(self, task: Task, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a picture, uint8 (image_size, image_size, 3), and what to keep so that it need not be decoded again.

        Args:
            task: the picture.
            kept: what an earlier call gave to keep.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        size = self.preprocessing.image_size
        try:
            if self.augment is None:
                seen = self.preprocessing(open_picture(task.place)) if kept is None else kept
                return seen, seen
            rng = np.random.default_rng(task.draw)
            if kept is not None:
                return self.augment(kept, size, rng), kept
            view = View(self.augment, size, rng)
            pixels = open_pixels(task.place, view.choose)
        except DataError as error:
            raise DataError(f"cannot read {task.place}: {error}") from error
        small = max(view.full) < 2 * size  # never decoded smaller, so these are its only pixels
        return view.cut(pixels), pixels if small else None
