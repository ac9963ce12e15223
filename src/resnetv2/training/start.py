"""The network that a run begins with: random, or with weights that were trained before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from resnetv2.console import talk
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.published import read_published
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.pytorch import build_model
from resnetv2.weights.modelfile import Header, ModelFile, read_model_file
from resnetv2.weights.sealed import digest_of


@dataclass(frozen=True)
class Start:
    """Weights to begin with: what they say of themselves, the weights, and a digest by which they are known."""

    file: ModelFile
    digest: str

    @property
    def header(self) -> Header:
        """The weights' header."""
        return self.file.header


def read_start(weights: str | None) -> Start | None:
    """Read a model file or published weights; None where a run begins with random ones.

    Raises:
        Error: they cannot be fetched, read or trusted.
    """
    if weights is None:
        return None
    file = read_published(weights, read_model_file)
    return Start(file, digest_of({}, file.weights))


def make_preprocessing(config: TrainConfig, start: Start | None) -> Preprocessing:
    """Return how pictures become the network's input in validation and in use: the weights' way, in the run's size."""
    size = config.val_image_size or config.image_size
    own = start.header.preprocessing if start is not None else Preprocessing()
    crop = config.crop_pct if config.crop_pct is not None else own.image_size / own.resize
    return replace(own, image_size=size, resize=max(size, round(size / crop)))


def make_model(config: TrainConfig, task: str, classes: Sequence[str], start: Start | None) -> ResNetV2:
    """Return the network to train. A head for other classes than the weights' gives way to a random one, and is told.

    Args:
        config: resolved settings.
        task: of the data.
        classes: of the data.
        start: what to begin with.
    """
    torch.manual_seed(config.seed)
    options: dict[str, Any] = {
        "drop_rate": config.drop_rate,
        "drop_path_rate": config.drop_path_rate,
        "memory": config.memory,
        "kernels": config.kernels,
    }
    if start is None:
        return ResNetV2(config.architecture(len(classes)), zero_init_last=config.zero_init_last, **options)
    model = build_model(start.header.architecture, start.file.weights, **options)
    if (start.header.task, start.header.classes) != (task, tuple(classes)) or task == "regression":
        if start.header.classes:
            talk().print(f"the weights' head for {len(start.header.classes):,} classes gives way to a new one")
        model.reset_classifier(len(classes))
    return model
