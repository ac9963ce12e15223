"""One optimizer step: forward, loss, backward, clipping, optimizer, with the precision that was chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetv2.recipes import TrainConfig
from resnetv2.training.losses import Loss
from resnetv2.training.optimizers import StartingPoint, set_rate

PRECISIONS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What a step gave: the batch's mean loss, the network's outputs (N, K), and what they should have been."""

    loss: float
    outputs: Tensor
    targets: Tensor


class Stepper:
    """Takes optimizer steps.

    Args:
        model: the network that is trained.
        loss: of outputs and targets.
        optimizer: of the network's parameters, its groups with ``lr_scale``.
        config: grad_accum_steps, clip_grad, amp, compile, seed.
        device: of the network.
        anchor: what weights decay toward, if it is not zero.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
        anchor: StartingPoint | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer, self.config, self.device = model, loss, optimizer, config, device
        self.anchor = anchor
        self.forward = torch.compile(model) if config.compile else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")

    def __call__(self, pictures: Tensor, targets: Tensor, rate: float, step: int) -> Outcome:
        """Take one step; with a loss that is no number, the weights are as they were.

        Args:
            pictures: normalised, float (N, C, H, W).
            targets: as the loss takes them, N of them.
            rate: the learning rate of the head.
            step: number of the step, from which dropout and stochastic depth are drawn.
        """
        torch.manual_seed(step_seed(self.config.seed, step))
        parts = self.config.grad_accum_steps
        self.optimizer.zero_grad(set_to_none=True)
        loss, outputs = 0.0, []
        for x, y in zip(pictures.tensor_split(parts), targets.tensor_split(parts), strict=True):
            with torch.autocast(self.device.type, PRECISIONS[self.config.amp], enabled=self.config.amp != "off"):
                out = self.forward(x)
                part = self.loss(out, y) * (len(x) / len(pictures))
            self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            outputs.append(out.detach())
        if loss - loss == 0:  # neither infinite nor NaN
            self._update(rate)
        return Outcome(loss, torch.cat(outputs), targets)

    def _update(self, rate: float) -> None:
        set_rate(self.optimizer, rate)
        if self.config.clip_grad is not None or self.anchor is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.clip_grad is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        if self.anchor is not None:
            self.anchor.pull()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one step's random choices: the same whenever and wherever the step is taken."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:8], "big", signed=True)
