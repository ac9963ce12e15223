"""The moving average of a network, which is what is validated and saved."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's weights and statistics, which is what is evaluated and saved.

    Updated every few steps with the decay those steps add up to, because one update reads and writes every weight.

    Args:
        model: the network that is trained; ``average`` starts as a copy of it.
        decay: weight of the past in one step; less while the run is young.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
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
