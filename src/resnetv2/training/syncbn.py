"""Batch norm over the pictures of all processes, on any device; PyTorch's own takes GPUs alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class SyncedBatchNorm(_BatchNorm):
    """Batch norm whose statistics in training are of all processes' inputs together, however many each has.

    What it computes, forward and backward, is what ``nn.BatchNorm2d`` computes of the joined batch, save rounding.
    Every process must call it, equally often. In evaluation it is ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  nn.Module's word
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  likewise
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        y, mean, var, count = _Synced.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            momentum = float(self.momentum or 0.0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / (count - 1)), momentum)  # the unbiased variance, as everywhere
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        return y  # type: ignore[no-any-return]


def synchronize(model: nn.Module) -> None:
    """Let the model's batch norms be synchronised ones, with the same parameters and statistics, in place."""
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                synced = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum, device="meta")
                synced.weight, synced.bias = norm.weight, norm.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(synced, buffer, getattr(norm, buffer))
                synced.train(norm.training)
                setattr(module, name, synced)


class _Synced(Function):
    """(N, C, …) -> the normalised input, mean and variance (C,) of the joined batch, and its values a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, float]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        var, mean = (value.double() for value in torch.var_mean(x.to(weight.dtype), dim=axes, correction=0))
        n = x.numel() // x.shape[1]
        sums = torch.cat([n * mean, n * (var + mean.square()), mean.new_full((1,), n)])
        distributed.all_reduce(sums)
        count = sums[-1].item()
        mean, square = sums[:-1].div(count).chunk(2)
        mean, var = mean.to(weight.dtype), (square - mean.square()).clamp_(min=0).to(weight.dtype)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, var)
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, mean, var = ctx.saved_tensors
        # As if mean and variance were constants: the gradient of x, Σ dy · x̂ and Σ dy of this process's pictures.
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, None, None, train=False, eps=ctx.eps, output_mask=[True, True, True]
        )
        sums = torch.cat([dbias, dweight]).to(mean.dtype)
        distributed.all_reduce(sums)
        if not ctx.needs_input_grad[0]:
            return None, dweight, dbias, None
        # What they contribute themselves: dx -= w/σ · (Σ dy / n + x̂ · Σ dy·x̂ / n).
        shape = (1, -1, *[1] * (x.ndim - 2))
        inverse = torch.rsqrt(var + ctx.eps)
        by_mean, by_var = sums.div(ctx.count).mul_((weight * inverse).repeat(2)).chunk(2)
        centred = x.to(mean.dtype) - mean.view(shape)
        correction = torch.addcmul(by_mean.view(shape), centred, (by_var * inverse).view(shape))
        return (dx.to(mean.dtype) - correction).to(x.dtype), dweight, dbias, None
