"""Training the last stage alone: the network cut before it, and batches of kept maps in place of pictures.

The cut is at the input of the last stage's first unit, whatever stage strides where, so the two halves have the same
units in every dialect. Where a dialect strides in the last unit of a stage (Keras, TF-Slim), the map there is already
at its smallest: 7×7×1024 of 224 pixels in ResNet50-v2, else 14×14×1024.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.data.index import Samples
from resnetv2.data.load import Batch, batch_bounds
from resnetv2.data.sampling import ORDERS
from resnetv2.model import ResNetV2, activate
from resnetv2.runtime.pytorch import TorchSession
from resnetv2.training.features import Features

_AHEAD = 2  # batches read before they are asked for


class Tail(nn.Module):
    """The last stage, the final norm and the head of a network, whose parameters they are.

    (N, C, h, w) from ``run_trunk`` -> logits (N, num_classes)

    Args:
        model: the network, with the head that it is to have.
    """

    def __init__(self, model: ResNetV2) -> None:
        super().__init__()
        self.units = nn.ModuleList(list(model.units())[-model.config.depths[-1] :])
        self.norm, self.head = model.norm, model.head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self._last_map(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return what the head's linear layer reads: (N, C, h, w) -> (N, num_features)."""
        pooled: Tensor = self.head(self._last_map(x), pre_logits=True)
        return pooled

    def _last_map(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
        return activate(self.norm, x)


def run_trunk(model: ResNetV2, x: Tensor) -> Tensor:
    """Run a network up to its last stage: pictures (N, in_chans, H, W), normalised -> (N, C, h, w).

    ``Tail(model)(run_trunk(model, x))`` has the bits of ``model(x)``.
    """
    if model.input_norm is not None:
        x = model.input_norm(x)
    x = model.stem(x)
    for unit in list(model.units())[: -model.config.depths[-1]]:
        x = unit(x)
    return x


class TrunkSession(TorchSession):
    """A PyTorch session that also gives the maps that enter the last stage; see ``features.MapSession``."""

    @torch.inference_mode()
    def maps(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> float16 (N, h, w, C), infinite beyond 65,504."""
        x = self.normalize(torch.from_numpy(pictures).to(self.device))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = run_trunk(self.model, x).half().permute(0, 2, 3, 1)
        result: np.ndarray = maps.contiguous().cpu().numpy()
        return result


def unpack_maps(maps: Tensor) -> Tensor:
    """Kept maps (N, h, w, C) float16 -> (N, C, h, w) float32 in channels_last, as ``Tail`` takes them."""
    return maps.permute(0, 3, 1, 2).float()


class MapLoader:
    """Batches of kept maps in place of pictures, otherwise as ``data.load.Loader`` gives them.

    Args:
        features: maps of the pictures, (V, N, h, w, C).
        samples: the same N pictures.
        batch_size: the most in a batch; all batches are of one size, or differ by one.
        seed: of order and views.
        shuffle: True to learn: a random order, and of each picture a view chosen at random. False to evaluate: every
            picture once, in order, in its first view.
        sampling: a key of ORDERS, where they are shuffled.
    """

    workers = 1

    def __init__(
        self,
        features: Features,
        samples: Samples,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        sampling: str = "natural",
    ) -> None:
        self.features, self.samples, self.seed, self.shuffle = features, samples, seed, shuffle
        self.bounds = batch_bounds(len(samples), batch_size, least=2 if shuffle else 1)
        self.order = ORDERS[sampling]
        self.seconds = 0.0  # that its thread has worked

    def __len__(self) -> int:
        return len(self.bounds)

    def batches(self, epoch: int = 0, start: int = 0, size: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """Yield the batches of an epoch from number ``start`` on; ``pictures`` are float16 (n, h, w, C).

        They have the size that they were kept in, whatever ``size`` is.

        Raises:
            Error: the cache is damaged; the message names the file to delete.
        """
        order, views = np.arange(len(self.samples)), np.zeros(len(self.samples), np.int64)
        if self.shuffle:
            order = self.order(self.samples.labels, np.random.default_rng((self.seed, epoch, 0)))
            views = np.random.default_rng((self.seed, epoch, 1)).integers(self.features.views, size=len(order))
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for low, high in self.bounds[start:]:
                    waiting.append(pool.submit(self._read, order[low:high], views[low:high]))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, indices: np.ndarray, views: np.ndarray) -> Batch:
        began = time.perf_counter()
        batch = Batch(self.features.take(indices, views), self.samples.labels[indices], indices)
        self.seconds += time.perf_counter() - began
        return batch
