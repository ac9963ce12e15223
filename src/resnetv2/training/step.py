"""One optimizer step: forward, loss, backward, clipping, optimizer, with the precision that was chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetv2.recipes import TrainConfig
from resnetv2.training.batchnorm import batch_norms
from resnetv2.training.distributed import Gradients, World
from resnetv2.training.losses import Loss
from resnetv2.training.optimizers import StartingPoint, set_rate

PRECISIONS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What a step gave: the batch's mean loss, the network's outputs (N, K), and what they should have been.

    With several processes, the loss is of the whole batch, outputs and targets of this process's part.
    """

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
        world: the processes that take each step together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
        anchor: StartingPoint | None = None,
        world: World | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer, self.config, self.device = model, loss, optimizer, config, device
        self.anchor = anchor
        self.world = world or World()
        self.gradients: Gradients | None = None
        self.forward = torch.compile(model) if config.compile else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")

    def join(self) -> None:
        """Take the steps from now on together with the other processes, which are connected."""
        if self.world.size > 1:
            self.gradients = Gradients(self.model)

    def __call__(self, pictures: Tensor, targets: Tensor, rate: float, step: int, elsewhere: int = 0) -> Outcome:
        """Take one step; with a loss that is no number, the weights are as they were.

        Args:
            pictures: normalised, float (N, C, H, W).
            targets: as the loss takes them, N of them.
            rate: the learning rate of the head.
            step: number of the step, from which dropout and stochastic depth are drawn.
            elsewhere: pictures of the batch that other processes have.
        """
        world = self.world
        torch.manual_seed(step_seed(self.config.seed, step, world.rank))
        counts = world.share(self.config.grad_accum_steps).counts(len(pictures) + elsewhere)
        parts = list(zip(torch.split(pictures, counts), torch.split(targets, counts), strict=True))
        weights = [self.loss.weight(y) for _, y in parts]
        (whole,) = world.sum([sum(weights)])
        self.optimizer.zero_grad(set_to_none=True)
        loss, outputs = 0.0, []
        for number, ((x, y), weight) in enumerate(zip(parts, weights, strict=True), 1):
            if self.gradients is not None and number == len(parts):
                self.gradients.begin()
            with torch.autocast(self.device.type, PRECISIONS[self.config.amp], enabled=self.config.amp != "off"):
                out = self.forward(x)
                part = self.loss(out, y) * (weight / whole)
            self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            outputs.append(out.detach())
        if self.gradients is not None:
            self.gradients.finish()
        (loss,) = world.sum([loss])
        if loss - loss == 0:  # neither infinite nor NaN
            self._update(rate)
            self._agree_on_statistics()
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

    def _agree_on_statistics(self) -> None:
        """Give batch norm in every process the mean of their running statistics, each of its own part of batches."""
        if self.world.size > 1 and self.config.bn != "frozen" and not self.config.sync_bn:
            buffers = [b for n in batch_norms(self.model) for b in (n.running_mean, n.running_var) if b is not None]
            self.world.total(buffers)
            torch._foreach_div_(buffers, self.world.size)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of one step's random choices in a process: the same whenever and wherever the step is taken."""
    text = f"{seed} {step} {rank}" if rank else f"{seed} {step}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
