"""The learning rate, the optimizer and the moving average, each in one place."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from resnetv2.model import ResNetV2
from resnetv2.recipes import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step counted from 0: linear warm-up, then half a cosine down to 0 after the last step."""
    total = config.epochs * steps_per_epoch
    warmup = min(config.warmup_epochs, config.epochs / 4) * steps_per_epoch
    if step < warmup:
        return config.peak_lr * (step + 1) / (warmup + 1)
    return config.peak_lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum; norms and biases are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, nesterov=nesterov, fused=True)


class MovingAverage:
    """Exponential moving average of a network's weights and statistics, which is what is evaluated and saved.

    Updated every few steps with the decay those steps add up to, because one update reads and writes every weight.

    Args:
        model: the network that is trained; ``average`` starts as a copy of it.
        decay: weight of the past in one step; less while the run is young.
    """

    def __init__(self, model: ResNetV2, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = copy.deepcopy(model).requires_grad_(requires_grad=False).eval()
        self.step = 0  # of the last update

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step)) ** (step - self.step)
        self.step = step
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
