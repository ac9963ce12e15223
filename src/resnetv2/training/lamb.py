"""LAMB, which PyTorch lacks: Adam whose step is as long as each weight tensor allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2019, arXiv 1904.00962) in the form that ResNet strikes back was trained with (timm's, apex's).

    Bias correction, decay inside the step, and the step scaled by ‖weights‖ / ‖step‖ where there is decay; tensors
    without decay (norms, biases) take Adam's step. Those recipes clip gradients at a global norm of 1 first, which is
    ``torch.nn.utils.clip_grad_norm_``'s part. Each parameter's state is ``step`` (float32, on the CPU), ``exp_avg`` and
    ``exp_avg_sq``, as in ``torch.optim.AdamW``.

    Args:
        params: tensors or groups of them.
        lr: learning rate.
        betas: weights of the past in the means of the gradient and of its square.
        eps: added to the root of the second mean.
        weight_decay: share of the weights added to the step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with the gradients that are there; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[float, list[Tensor]] = {}  # by step: two lists only if a tensor was frozen for a while
            for weight in group["params"]:
                if weight.grad is not None:
                    counter = self._state_of(weight)["step"]
                    counter += 1
                    alike.setdefault(counter.item(), []).append(weight)
            for number, weights in alike.items():
                self._move(group, number, weights)
        return loss

    def _move(self, group: dict[str, Any], number: float, weights: list[Tensor]) -> None:
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        states = [self.state[weight] for weight in weights]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # The step is scale · moves: both bias corrections in one factor, so that no tensor is read for them.
        root = (1 - beta2**number) ** 0.5
        scale = root / (1 - beta1**number)
        moves = [square.sqrt() for square in squares]
        torch._foreach_add_(moves, group["eps"] * root)
        for mean, move in zip(means, moves, strict=True):
            torch.div(mean, move, out=move)
        if decay == 0:
            torch._foreach_add_(weights, moves, alpha=-group["lr"] * scale)
            return
        torch._foreach_add_(moves, weights, alpha=decay / scale)
        trusts = [_trust(*pair, scale) for pair in zip(weights, moves, strict=True)]
        torch._foreach_addcmul_(weights, moves, trusts, -group["lr"] * scale)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _trust(weight: Tensor, move: Tensor, scale: float) -> Tensor:
    """Return the ratio of the norms of a tensor and of ``scale`` times its move, 1 where either is 0."""
    length, distance = weight.norm(), scale * move.norm()
    return torch.where((length > 0) & (distance > 0), length / distance, 1.0)
