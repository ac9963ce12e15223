"""Batches on the device that computes; a GPU gets the next one while it computes the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from resnetv2.data.load import Batch


@dataclass(frozen=True, kw_only=True)
class Placed(Batch):
    """A batch whose pictures (or kept maps) are on the device, too, as ``array``."""

    array: Tensor


def place_batches(batches: Iterator[Batch], device: torch.device) -> Iterator[Placed]:
    """Yield batches with their arrays on a device, in order; on CUDA one more is under way.

    A copy from pinned memory on a stream of its own neither waits for the computation nor keeps it waiting.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _placed(batch, torch.from_numpy(batch.pictures).to(device))
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(_upload, batches, stream)
        while (arrival := coming.result()) is not None:
            coming = thread.submit(_upload, batches, stream)
            yield arrival()


def _upload(batches: Iterator[Batch], stream: torch.cuda.Stream) -> Callable[[], Placed] | None:
    """Begin to copy the next batch; return what makes the caller's stream wait for it, or None after the last."""
    batch = next(batches, None)
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        array = torch.from_numpy(batch.pictures).pin_memory().to(stream.device, non_blocking=True)
        copied = stream.record_event()

    def arrive() -> Placed:
        current = torch.cuda.current_stream(stream.device)
        current.wait_event(copied)
        array.record_stream(current)
        return _placed(batch, array)

    return arrive


def _placed(batch: Batch, array: Tensor) -> Placed:
    return Placed(batch.pictures, batch.labels, batch.indices, batch.elsewhere, array=array)
