"""Batch norm's statistics in training: computed exactly, kept still, and proved to be what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetv2.errors import DataError

# --- exact statistics -------------------------------------------------------------------------------------------------


class _Population:
    """Mean and variance of a norm's inputs over all batches: float64 sums, each picture with the same weight."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)  # values a channel
        self.sum = torch.zeros(norm.num_features, dtype=torch.float64)
        self.square_sum = torch.zeros(norm.num_features, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in one batch of inputs (N, C, …)."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        var, mean = torch.var_mean(x.float(), dim=axes, correction=0)
        count = x.numel() // x.shape[1]
        mean, var = mean.double().cpu(), var.double().cpu()
        self.count += count
        self.sum += count * mean
        self.square_sum += count * (var + mean.square())

    def write(self, norm: _BatchNorm) -> None:
        """Set the norm's running statistics; the variance is the unbiased one, as in training."""
        mean = self.sum / self.count
        var = (self.square_sum / self.count - mean.square()).clamp_(min=0)
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var * (self.count / (self.count - 1).clamp(min=1)))


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    n: int,
    total: Callable[[Sequence[Tensor]], None] = lambda _: None,
) -> int:
    """Set every running mean and variance to that of n pictures, under the weights as they are (PreciseBN).

    A running average mixes statistics of many past weights; these are of the present ones alone (Wu & Johnson 2021,
    arXiv 2105.07576, section 3). Batches may differ in size: pictures count, not batches. Dropout and stochastic depth
    are off meanwhile, weights are only read, and the statistics change at the end or, if a batch fails, not at all.
    The same batches give the same bits.

    Args:
        model: any network with batch norms; without, nothing happens.
        batches: normalised pictures float (N, C, H, W) on the model's device. Training's batch size and augmentation
            are what the statistics should see.
        n: pictures to use; the paper finds 1,000 to 10,000 enough.
        total: replaces sums by those over all processes, of which each has its own pictures.

    Returns:
        The pictures used, fewer than ``n`` where the batches end before.

    Raises:
        DataError: there are fewer than two pictures.
    """
    norms = {module: _Population(module) for module in batch_norms(model)}
    if not norms:
        return 0
    handles = [
        norm.register_forward_pre_hook(lambda _, inputs, population=population: population.add(inputs[0]))
        for norm, population in norms.items()
    ]
    used = 0
    try:
        with _measuring(model, norms):
            for batch in _first(batches, n):
                model(batch)
                used += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    if used == 0:
        raise DataError("statistics of batch norm need at least two pictures")
    total([sums for p in norms.values() for sums in (p.count, p.sum, p.square_sum)])
    for norm, population in norms.items():
        population.write(norm)
    return used


@contextmanager
def _measuring(model: nn.Module, norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let norms use the batch's statistics without keeping them, and everything else be as in evaluation."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode


def _first(batches: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """Yield the first n pictures in batches of at least two: a picture alone joins the next batch or the last."""
    held = alone = None
    for batch in batches:
        part = batch[:n]
        n -= len(part)
        if alone is not None:
            part, alone = torch.cat([alone, part]), None
        if len(part) == 1:
            alone = part
        else:
            if held is not None:
                yield held
            held = part
        if n <= 0:
            break
    rest = [part for part in (held, alone) if part is not None]
    if sum(map(len, rest)) > 1:
        yield torch.cat(rest)


# --- still statistics -------------------------------------------------------------------------------------------------


class _Frozen(nn.Module):
    """What ``freeze`` puts before a norm's class: training it is evaluating it."""

    def train(self, mode: bool = True) -> _Frozen:  # noqa: ARG002  nn.Module's signature
        return super().train(mode=False)


def freeze(model: nn.Module) -> None:
    """Let batch norms use their running statistics in training too, for good: not a bit of them changes.

    ``model.train()`` and ``model.eval()`` work as ever on everything else. Weights and biases of the norms are still
    trained. A frozen norm is of a class that derives from its former one, the way of ``torch.nn.utils.parametrize``, so
    names in the state, copies and ``isinstance`` are what they were. SyncBatchNorm is to be made before, if at all.
    """
    for norm in batch_norms(model):
        if not isinstance(norm, _Frozen):
            norm.__class__ = type(f"Frozen{type(norm).__name__}", (_Frozen, type(norm)), {})
        norm.eval()


def statistics_digest(model: nn.Module) -> str:
    """Return the SHA-256, as hexadecimal text, of every batch norm's statistics with their names."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            for kind, buffer in module.named_buffers():
                digest.update(f"{name}.{kind} {buffer.dtype} {tuple(buffer.shape)}\n".encode())
                digest.update(buffer.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep statistics, in the network's order."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
