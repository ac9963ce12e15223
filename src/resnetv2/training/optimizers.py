"""Optimizers by name, which parameters they decay and how fast each layer learns, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnetv2.errors import ConfigError, unknown
from resnetv2.model import ResNetV2
from resnetv2.training.lamb import Lamb

MOMENTS = {"sgd": 1, "adamw": 2, "lamb": 2}  # that each optimizer keeps of a parameter
OPTIMIZERS = tuple(MOMENTS)


def make_optimizer(
    model: ResNetV2,
    name: str = "sgd",
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    layer_decay: float = 1.0,
    decay_head_only: bool = False,
) -> torch.optim.Optimizer:
    """Return an optimizer of the parameters that are trained.

    Args:
        model: the network.
        name: "sgd" (Nesterov), "adamw" (Loshchilov & Hutter 2017, arXiv 1711.05101) or "lamb".
        lr: the head's rate; ``set_rate`` changes it.
        weight_decay: on convolutions and the head; norms and biases have none.
        momentum: of SGD.
        betas: of AdamW and LAMB.
        layer_decay, decay_head_only: see ``group_parameters``.

    Raises:
        ConfigError: the name is unknown, or ``layer_decay`` is not above 0 and at most 1.
    """
    groups = group_parameters(model, weight_decay, layer_decay, decay_head_only)
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    if name == "lamb":
        return Lamb(groups, lr=lr, betas=betas)
    raise ConfigError(unknown("optimizer", name, OPTIMIZERS))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the head's learning rate, and every other group's in its proportion to it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


# --- groups -----------------------------------------------------------------------------------------------------------


def group_parameters(
    model: ResNetV2, weight_decay: float, layer_decay: float = 1.0, decay_head_only: bool = False
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups, each with its ``weight_decay`` and ``lr_scale``.

    Norms and biases are not decayed, nor, with ``decay_head_only``, convolutions, which ``StartingPoint`` holds.

    ``lr_scale`` is ``layer_decay ** depth``. The head has depth 0, the last unit with the final norm 1, and so on down
    to the stem (as in timm; Clark et al. 2020, arXiv 2003.10555). With ``layer_decay`` 1 there are two groups, with
    decay and without.

    Raises:
        ConfigError: ``layer_decay`` is not above 0 and at most 1.
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay must be above 0 and at most 1, got {layer_decay!r}")
    depths = layer_depths(model)
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    if layer_decay == 1:
        groups = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim > 1 and (name.startswith("head.") or not decay_head_only)
            key = (layer_decay ** depths[name], is_decayed)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if is_decayed else 0.0, "lr_scale": scale}
        for (scale, is_decayed), params in groups.items()
    ]


def layer_depths(model: ResNetV2) -> dict[str, int]:
    """Return for each parameter how many layers lie above its own: 0 for the head's, most for the stem's."""
    units = [f"stages.{stage}.blocks.{number}." for stage, n in enumerate(model.config.depths) for number in range(n)]
    above = {prefix: len(units) - place for place, prefix in enumerate(units)}
    above |= {"head.": 0, "norm.": 1, "stem.": len(units) + 1, "input_norm.": len(units) + 1}
    return {
        name: next(depth for prefix, depth in above.items() if name.startswith(prefix))
        for name, _ in model.named_parameters()
    }


# --- decay toward the starting weights --------------------------------------------------------------------------------


class StartingPoint:
    """Decay of the pretrained weights toward where they started (L2-SP: Li et al. 2018, arXiv 1802.01483).

    It is the gradient of ``strength / 2 · ‖w - w₀‖²``, added by ``pull`` after clipping and before the step, where
    PyTorch's SGD adds its own decay. The head is new and has no starting point: give the optimizer
    ``decay_head_only``. The paper chooses strengths from 0.001 to 0.1 and decays the head by 0.01.

    Args:
        model: with its starting weights, which are copied: make this before a checkpoint is restored.
        strength: the paper's α.
    """

    def __init__(self, model: ResNetV2, strength: float) -> None:
        self.strength = strength
        self.weights = [
            p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and not name.startswith("head.")
        ]
        self.starts = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def pull(self) -> None:
        """Add the term's gradient to those that are there."""
        found = [(p.grad, p, start) for p, start in zip(self.weights, self.starts, strict=True) if p.grad is not None]
        if not found:
            return
        grads = [grad for grad, _, _ in found]
        torch._foreach_add_(grads, [p for _, p, _ in found], alpha=self.strength)
        torch._foreach_add_(grads, [start for _, _, start in found], alpha=-self.strength)


# --- state ------------------------------------------------------------------------------------------------------------


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state, moments and step counters, as tensors named ``kind.parameter``.

    Names depend on the parameters alone, not on how they are grouped: ``momentum_buffer.stem.conv.weight``.
    """
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for kind, value in optimizer.state[parameter].items()
        if value is not None
    }


def load_state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``state_tensors`` returned; the next step is the same bits as without the detour.

    Raises:
        ConfigError: a tensor belongs to no trained parameter, or is of another shape; nothing has been changed then.
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in trained}
    problems: list[str] = []
    state: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parameter = parameters.get(name)
        if parameter is None:
            problems.append(f"{key} belongs to no trained parameter")
        elif value.ndim and value.shape != parameter.shape:
            problems.append(f"{key} is of shape {tuple(value.shape)}, its parameter of {tuple(parameter.shape)}")
        else:
            state.setdefault(parameter, {})[kind] = _placed(value, parameter, optimizer)
    if problems:
        raise ConfigError("\n  ".join(["the optimizer's state does not fit the network", *problems]))
    optimizer.state.clear()
    optimizer.state.update(state)


def _placed(value: Tensor, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return a copy where the optimizer expects it: laid out in memory as the parameter, or a counter."""
    if value.ndim:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device if optimizer.defaults.get("fused") else "cpu", copy=True)
