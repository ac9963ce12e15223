"""Whether the loader or the network was what an epoch waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from resnetv2.data.load import Batch

_TICK = 1e-9  # seconds, so that nothing is divided by none


@dataclass(frozen=True)
class Speed:
    """Rates of an epoch, in pictures a second.

    ``loader_images_per_s`` is what its threads delivered in the time in which they worked, ``model_images_per_s`` what
    the steps took in the time in which they had a batch.
    """

    images_per_s: float
    loader_images_per_s: float
    model_images_per_s: float
    waited_s: float  # for the loader
    computed_s: float
    peak_memory_mb: float | None = None  # 10^6 bytes, of the device, or of the process; None where that is not told

    @property
    def limit(self) -> str:
        """The slower of "loader" and "model"."""
        return "loader" if self.loader_images_per_s < self.model_images_per_s else "model"

    @property
    def waited_share(self) -> float:
        """The share of the time in which the loader was waited for."""
        return self.waited_s / max(self.waited_s + self.computed_s, _TICK)

    def figures(self) -> dict[str, float | None]:
        """Return the figures by name."""
        return asdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures with the limit, for JSON."""
        return {"limit": self.limit, **self.figures()}


class Timed(Protocol):
    """A loader that tells how long its workers have worked, all of them together, and how many they are."""

    workers: int

    @property
    def seconds(self) -> float: ...


class Stopwatch:
    """Times the batches of a loader: how long they are waited for, and how long whoever takes them is busy.

    Args:
        loader: whose batches are timed.
        device: of the network, whose memory is told.
    """

    def __init__(self, loader: Timed, device: torch.device | None = None) -> None:
        self.loader, self.device = loader, device or torch.device("cpu")
        self.began, self.worked = time.perf_counter(), loader.seconds
        self.waited, self.pictures = 0.0, 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches of the loader."""
        asked = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            self.pictures += len(batch.labels)
            yield batch
            asked = time.perf_counter()

    def speed(self) -> Speed:
        """Return the rates since the stopwatch was made."""
        total = time.perf_counter() - self.began
        worked = (self.loader.seconds - self.worked) / self.loader.workers
        computed = total - self.waited
        return Speed(
            images_per_s=self.pictures / max(total, _TICK),
            loader_images_per_s=self.pictures / max(worked, _TICK),
            model_images_per_s=self.pictures / max(computed, _TICK),
            waited_s=self.waited,
            computed_s=computed,
            peak_memory_mb=peak_memory_mb(self.device),
        )


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory that was taken so far, in 10^6 bytes: a GPU's by PyTorch, else that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
