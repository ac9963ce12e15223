"""Mixup and CutMix: batches whose pictures and labels are mixtures of two."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Mix:
    """Mix each picture of a batch with another, and their labels in the same shares.

    Mixup (Zhang et al. 2017, arXiv 1710.09412) adds λ of one picture to 1 - λ of the other; CutMix (Yun et al. 2019,
    arXiv 1905.04899) replaces a rectangle by the other's, and λ is the share of the area that stays. λ follows
    Beta(alpha, alpha), one for the batch. Choices are made by NumPy, so that they are the same on every device.

    Args:
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none. With both, a fair coin decides for each batch.
        num_classes: of the soft labels.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        self.mixup, self.cutmix, self.num_classes = mixup, cutmix, num_classes

    @property
    def active(self) -> bool:
        """Whether any batch is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self,
        pictures: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
        total: int | None = None,
        take: Callable[[Tensor, Tensor], Tensor] = Tensor.__getitem__,
    ) -> tuple[Tensor, Tensor]:
        """Return mixed pictures float (N, C, H, W) and labels mixed in the same shares, float32 (N, num_classes).

        Args:
            pictures: normalised, float (N, C, H, W).
            labels: class indices int64 (N,), or already float (N, num_classes).
            rng: the source of every choice about this batch.
            total: pictures of the batch, where this is one process's part of it.
            take: returns this process's part of ``rows[places]``, for rows that are one process's part and places of
                the whole batch.
        """
        is_cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if is_cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        others = torch.from_numpy(rng.permutation(len(labels) if total is None else total)).to(labels.device)
        partners = take(pictures, others)
        if is_cut:
            top, left, bottom, right = rectangle(pictures.shape[2], pictures.shape[3], 1 - share, rng)
            mixed = pictures.clone()
            mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (pictures.shape[2] * pictures.shape[3])
        else:
            mixed = share * pictures + (1 - share) * partners
        one_hot = F.one_hot(labels, self.num_classes).float() if labels.ndim == 1 else labels
        return mixed, share * one_hot + (1 - share) * take(one_hot, others)


def rectangle(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of CutMix's rectangle: a share of the area around any pixel, cut off at edges."""
    h, w = int(height * math.sqrt(area)), int(width * math.sqrt(area))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return max(y - h // 2, 0), max(x - w // 2, 0), min(y + h // 2, height), min(x + w // 2, width)
