"""What training minimises, by task and kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resnetv2.errors import ConfigError

KINDS = {
    "classification": ("cross_entropy", "bce"),
    "multilabel": ("bce",),
    "regression": ("mse", "smooth_l1"),
}


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch, a float32 scalar; made by ``make_loss``.

    Called with outputs float (N, C) and, by task:

    - "classification": classes int64 (N,), or shares of classes float (N, C) that sum to 1, as ``Mix`` gives them;
    - "multilabel": 0 or 1 for each class, (N, C), any dtype;
    - "regression": numbers float (N, C), or (N,) where C is 1.
    """

    compute: Callable[[Tensor, Tensor], Tensor]
    divisors: Tensor | None = None  # by class, where the mean is one of classes weighted by these

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the batch's mean; computed in float32 whatever the outputs are."""
        return self.compute(outputs.float(), targets)

    def weight(self, targets: Tensor) -> float:
        """Return what the targets weigh in a mean over several batches: as many as they are, or their classes' sum."""
        if self.divisors is None or targets.ndim > 1:
            return len(targets)
        return self.divisors[targets].sum().item()


def make_loss(
    task: str,
    kind: str,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    num_classes: int = 0,
    *,
    share: float = 0.0,
    sum_classes: bool = False,
) -> Loss:
    """Return a loss.

    Args:
        task: a key of ``KINDS``.
        kind: "cross_entropy", "bce" (of classes: each one against the rest, Wightman et al. 2021, arXiv 2110.00476),
            "mse" or "smooth_l1" (quadratic below an error of 1, Girshick 2015, arXiv 1504.08083).
        class_weights: float (num_classes,) on the network's device, or None. "multilabel" weights a class's presence
            alone, so n absent / n present makes up for rarity.
        label_smoothing: in [0, 1). Classes: this share is spread over all of them; "multilabel": 0 and 1 move this
            share of the way to 0.5, as in timm.
        num_classes: C.
        share: "bce" of mixed pictures takes every class with more than this share as wholly present. The paper takes
            all; timm's ``--bce-target-thresh`` is this.
        sum_classes: "bce" sums over classes before the mean over pictures, as Composer does; otherwise the mean is over
            both, and C times smaller, as in timm's recipes.

    Raises:
        ConfigError: listing everything that does not go together.
    """
    _check(task, kind, class_weights, label_smoothing, num_classes)
    scale = num_classes if sum_classes else 1
    computations: dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]] = {
        ("classification", "cross_entropy"): lambda outputs, targets: F.cross_entropy(
            outputs, targets, class_weights, label_smoothing=label_smoothing
        ),
        ("classification", "bce"): lambda outputs, targets: (
            scale
            * F.binary_cross_entropy_with_logits(
                outputs, one_or_more_hot(targets, num_classes, label_smoothing, share), class_weights
            )
        ),
        ("multilabel", "bce"): lambda outputs, targets: (
            scale
            * F.binary_cross_entropy_with_logits(
                outputs, targets.float() * (1 - label_smoothing) + 0.5 * label_smoothing, pos_weight=class_weights
            )
        ),
        ("regression", "mse"): lambda outputs, targets: F.mse_loss(outputs, targets.float().view_as(outputs)),
        ("regression", "smooth_l1"): lambda outputs, targets: F.smooth_l1_loss(
            outputs, targets.float().view_as(outputs)
        ),
    }
    is_divided = (task, kind) == ("classification", "cross_entropy")
    return Loss(computations[task, kind], class_weights if is_divided else None)


def one_or_more_hot(targets: Tensor, num_classes: int, smoothing: float, share: float) -> Tensor:
    """Return targets of one-against-the-rest, float32 (N, num_classes): high for each class that is present.

    Args:
        targets: classes int64 (N,), or shares of classes float (N, num_classes).
        num_classes: C.
        smoothing: high is 1 - smoothing + smoothing / C, low is smoothing / C.
        share: a class with more than this share is present.
    """
    present = F.one_hot(targets, num_classes).float() if targets.ndim == 1 else (targets > share).float()
    return present * (1 - smoothing) + smoothing / num_classes


def effective_weights(counts: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Return class weights, float32 (C,) with mean 1, by effective numbers of pictures (Cui et al., arXiv 1901.05555).

    The more pictures of a class there are, the more a new one repeats: n count as (1 - βⁿ) / (1 - β), and weights are
    in inverse proportion to that. β = 0 weights all classes alike, β near 1 in inverse proportion to n.

    Args:
        counts: training pictures of each class, at least 1.
        beta: in [0, 1); the paper uses 0.9 to 0.9999.

    Raises:
        ConfigError: ``beta`` is out of range, or a class has no picture.
    """
    empty = [place for place, n in enumerate(counts) if n < 1]
    if empty or not 0 <= beta < 1:
        raise ConfigError(
            f"beta must be in [0, 1) and every class have a picture, got {beta!r}, none in classes {empty}"
        )
    log_beta = math.log(beta) if beta else -math.inf
    weights = torch.tensor([1 / -math.expm1(n * log_beta) for n in counts], dtype=torch.float64)
    return (weights / weights.mean()).float()


def _check(task: str, kind: str, class_weights: Tensor | None, label_smoothing: float, num_classes: int) -> None:
    if task not in KINDS or kind not in KINDS[task]:
        choices = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in KINDS.items())
        raise ConfigError(f"there is no {kind!r} loss for {task!r}; choose from {choices}")
    problems = []
    if not 0 <= label_smoothing < 1:
        problems.append(f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}")
    if task == "regression" and (class_weights is not None or label_smoothing):
        problems.append("regression has no classes to weight or smooth")
    if class_weights is not None and tuple(class_weights.shape) != (num_classes,):
        problems.append(f"class_weights must be of shape ({num_classes},), got {tuple(class_weights.shape)}")
    if problems:
        raise ConfigError("; ".join(problems))
