"""What a run learns by, and what its validation says: a loss and figures for each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.data.index import Index
from resnetv2.data.sampling import balanced_weights, present_weights
from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.evaluation.ranking import Ranking, mean_interval
from resnetv2.evaluation.regression import regression_report
from resnetv2.inference import sigmoid, softmax
from resnetv2.model import ResNetV2
from resnetv2.recipes import TrainConfig
from resnetv2.tasks import LOWER_IS_BETTER, METRICS
from resnetv2.training.losses import effective_weights, make_loss

_TINY = 1e-300  # of a probability: the log of 0 is no number


class Objective:
    """Loss and figures of one run.

    Args:
        config: with its task resolved.
        index: the pictures.
        device: where the loss is computed.
    """

    def __init__(self, config: TrainConfig, index: Index, device: torch.device) -> None:
        self.task, self.device, self.classes = index.task, device, index.classes
        labels = index.split("train").labels
        self.mean, self.std = 0.0, 1.0  # of the targets: a network learns numbers near 0 and 1 best
        if self.task == "regression":
            self.mean, self.std = float(labels.mean()), float(labels.std()) or 1.0
        weights = _class_weights(config.class_weights, self.task, labels, len(index.classes))
        self.loss = make_loss(
            self.task,
            str(config.loss),
            None if weights is None else weights.to(device),
            float(config.label_smoothing or 0.0),
            len(index.classes),
        )

    @property
    def metric(self) -> str:
        """The figure by which the best epoch is chosen: "top1", "map" or "mae"."""
        return METRICS[self.task]

    def targets(self, labels: np.ndarray) -> Tensor:
        """Return labels as the loss takes them, on the device."""
        if self.task == "regression":
            labels = (labels - self.mean) / self.std
        kind = torch.int64 if self.task == "classification" else torch.float32
        return torch.from_numpy(np.asarray(labels)).to(self.device, kind)

    def answers(self, outputs: Tensor) -> np.ndarray:
        """Return what the network says, float32 (N, K): logits, or a number in the units of the targets."""
        values: np.ndarray = outputs.float().cpu().numpy()
        return values * np.float32(self.std) + np.float32(self.mean) if self.task == "regression" else values

    def correct(self, outputs: Tensor, targets: Tensor) -> int:
        """Count the right answers of a batch; of a mixed picture, the class with more of it is right."""
        if self.task != "classification":
            return 0
        larger = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return int((outputs.argmax(dim=1) == larger).sum())

    def score(self, figures: Mapping[str, Any]) -> float:
        """Return by how much an epoch is good: the higher the better."""
        value = float(figures[f"val_{self.metric}"])
        return -value if self.metric in LOWER_IS_BETTER else value

    def figures(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Return loss and figures of the validation pictures, in float64; loss of numbers in squared std.

        Args:
            answers: as ``answers`` gives them.
            labels: as the index has them.
        """
        if self.task == "regression":
            errors = answers[:, 0].astype(np.float64) - labels
            square, spread = float((errors**2).mean()), float(labels.var())
            r2 = 1 - square / spread if spread else None
            return {
                "val_loss": square / self.std**2,
                "val_mae": float(np.abs(errors).mean()),
                "val_r2": r2,
                "val_n": len(labels),
            }
        if self.task == "multilabel":
            probability = np.where(labels == 1, sigmoid(answers), sigmoid(-answers))
            precision = [
                Ranking.of(answers[:, k], labels[:, k] == 1).average_precision() for k in range(labels.shape[1])
            ]
            known = [value for value in precision if value is not None]
            figures = {"val_map": float(np.mean(known)) if known else 0.0}
        else:
            probability = softmax(answers)[np.arange(len(labels)), labels]
            figures = {"val_top1": float((answers.argmax(axis=1) == labels).mean())}
        return {"val_loss": -float(np.log(probability.clip(_TINY)).mean()) + 0.0, **figures, "val_n": len(labels)}

    def headline(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Return the figure of ``metric`` with its 95 % interval, None where there is none, and n."""
        figures, interval = self.figures(answers, labels), None
        value, n = figures[f"val_{self.metric}"], len(labels)
        if self.task == "classification":
            interval = list(wilson_interval(round(value * n), n))
        elif self.task == "multilabel" and n > 1 and labels.any():
            ranked = [Ranking.of(answers[:, k], labels[:, k] == 1) for k in np.flatnonzero(labels.any(axis=0))]
            interval = mean_interval(value, ranked, "average_precision")
        elif self.task == "regression":
            interval = regression_report(answers, labels)["mae_ci95"]
        return {self.metric: value, f"{self.metric}_ci95": interval, "n": n}

    @contextmanager
    def in_units(self, model: ResNetV2) -> Iterator[ResNetV2]:
        """Let a network answer in the targets' units within the block, as ``answers`` does: its head is scaled."""
        head = model.head.fc
        if self.task == "regression" and isinstance(head, nn.Linear):
            scaled = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
            with torch.no_grad():
                scaled.weight.copy_(head.weight * self.std)
                scaled.bias.copy_(head.bias * self.std + self.mean)
            model.head.fc = scaled
        try:
            yield model
        finally:
            model.head.fc = head


def _class_weights(kind: str, task: str, labels: np.ndarray, classes: int) -> Tensor | None:
    """Return the loss's weight of each class, or None."""
    if kind == "none":
        return None
    if task == "multilabel":
        return torch.from_numpy(present_weights(labels)).float()
    if kind == "effective":
        return effective_weights(np.bincount(labels, minlength=classes).tolist())
    return torch.from_numpy(balanced_weights(labels, classes)).float()
