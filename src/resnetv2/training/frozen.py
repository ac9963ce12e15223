"""Recipes that leave most of a network as it is: what it makes of every picture is computed once, and learnt from.

"probe" solves for a linear head on pooled features. "lp-ft" begins with that head and trains the last stage too, on the
maps that enter it (linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054). The rest of the network
stays as it is to the bit, batch norm's statistics included. Features are kept in the user's cache: who looks at the
same pictures with the same weights again computes nothing.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnetv2.config import ResNetV2Config
from resnetv2.console import counting
from resnetv2.data.augment import Augment
from resnetv2.data.index import Index, Samples
from resnetv2.data.load import Batch
from resnetv2.errors import ConfigError, Error
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.choice import choose_runtime, open_session
from resnetv2.runtime.pytorch import build_model, choose_device
from resnetv2.runtime.session import Session
from resnetv2.training.features import Features, cached_features, fixed_views, frozen_identity
from resnetv2.training.loop import Origin, Parts, Run
from resnetv2.training.maps import MapLoader, Tail, TrunkSession, run_trunk, unpack_maps
from resnetv2.training.objective import Objective
from resnetv2.training.probe import Probe, fit_classes, fit_tags, fit_values
from resnetv2.training.start import Start
from resnetv2.training.step import Outcome
from resnetv2.weights.modelfile import ModelFile

FOLDED = "torch, norms folded"
_POOLED_AT_ONCE = 64  # maps through the last stage
_SMALL = 96  # pixels of a side, up to which a processor is quicker with many pictures at a time


@dataclass(frozen=True)
class Frozen:
    """A network that is not trained, and the pictures it is shown.

    Attributes:
        config: resolved settings.
        index: the pictures.
        network: with the head that it is to have.
        start: the weights it has.
        preprocessing: of validation and of the model file.
        augment: from which views beyond the first are drawn.
    """

    config: TrainConfig
    index: Index
    network: ResNetV2
    start: Start
    preprocessing: Preprocessing
    augment: Augment

    @cached_property
    def session(self) -> LazySession:
        """What computes features of every split."""
        counts = self.index.counts()
        count = counts["train"] * self.config.views + counts["val"]
        return LazySession(self.start.file, self.preprocessing, choose_device(self.config.device), count)

    def look(self, split: str, layer: str) -> Features:
        """Return what the network makes of the pictures of a split, each in all its views if it is "train".

        Raises:
            DataError: a picture cannot be read.
            Error: there is no room for what is to be kept.
        """
        config, index, session = self.config, self.index, self.session
        many = session.device.type != "cpu" or self.preprocessing.image_size <= _SMALL
        views = fixed_views(self.augment, config.views if split == "train" else 1, config.seed)
        contents = index.contents
        with counting(f"looking at the pictures of {split}") as progress:
            return cached_features(
                session,
                frozen_identity(self.start.header.architecture, self.start.file.weights, layer),
                index.split(split),
                self.preprocessing,
                layer=layer,
                views=views,
                sha256=None if contents is None else contents.sha256[index.splits == split],
                runtime=session.choose(layer),
                budget=int(config.features_gb * 1e9),
                batch_size=32 if many else 8,
                workers=config.workers,
                progress=progress,
            )

    def fit(self, features: np.ndarray) -> Probe:
        """Solve for the head: pooled features of the training pictures, float32 (views, N, num_features)."""
        config, index = self.config, self.index
        train = index.splits == "train"
        targets = Objective(config, index, torch.device("cpu")).targets(index.labels[train]).numpy()
        groups = None if index.groups is None else [index.groups[i] for i in np.flatnonzero(train).tolist()]
        weighting = "none" if config.class_weights == "none" and config.sampling != "balanced" else "balanced"
        if index.task == "regression":
            return fit_values(features, targets.ravel(), groups=groups, seed=config.seed)
        if index.task == "multilabel":
            return fit_tags(features, targets, groups=groups, class_weights=weighting, seed=config.seed)
        classes = len(index.classes)
        return fit_classes(features, targets, classes, groups=groups, class_weights=weighting, seed=config.seed)


def make_frozen_run(frozen: Frozen, out: Path, origin: Origin) -> Run:
    """Return the run of a recipe that looks at every picture once; it does so here."""
    return (make_probe_run if frozen.config.recipe == "probe" else make_tail_run)(frozen, out, origin)


def make_probe_run(frozen: Frozen, out: Path, origin: Origin) -> Run:
    """Return the run that solves for a head."""
    index, head = frozen.index, frozen.network.head.fc
    train = FeatureLoader(frozen.look("train", "pooled").array(), index.split("train"))
    val = FeatureLoader(frozen.look("val", "pooled").array()[0], index.split("val"))
    parts = Parts(frozen.network, head, frozen.preprocessing, _as_it_is, train, val, _say_views(frozen.config))
    return ProbeRun(frozen, parts, out, origin)


def make_tail_run(frozen: Frozen, out: Path, origin: Origin) -> Run:
    """Return the run that trains the last stage and the head, the latter from where the probe found it."""
    config, index, network = frozen.config, frozen.index, frozen.network
    size = frozen.preprocessing.image_size
    need = map_bytes(network.config, size) * (index.counts()["train"] * config.views + index.counts()["val"]) / 1e9
    if need > config.features_gb:
        raise ConfigError(
            f"recipe 'lp-ft' keeps maps of {need:.2g} GB, and features_gb is {config.features_gb:g}: raise it with "
            f"--set features_gb={math.ceil(need)}, or choose a smaller --image-size, or --recipe probe or finetune"
        )
    maps, held_out = frozen.look("train", "maps"), frozen.look("val", "maps")
    tail = Tail(network)
    network.requires_grad_(requires_grad=False)
    tail.requires_grad_()
    set_head(tail.head.fc, frozen.fit(_pool(tail, maps, choose_device(config.device))))
    train = MapLoader(maps, index.split("train"), config.batch_size, config.seed, sampling=config.sampling)
    val = MapLoader(held_out, index.split("val"), config.batch_size, shuffle=False)
    parts = Parts(network, tail, frozen.preprocessing, unpack_maps, train, val, _say_views(config), is_fitted=True)
    return Run(config, index, parts, out, origin)


class ProbeRun(Run):
    """A run of one step, which is a solution in place of a gradient.

    The loss and the share of right answers in training are those of cross-validation: of each picture, by the head that
    did not see it.
    """

    def __init__(self, frozen: Frozen, parts: Parts, out: Path, origin: Origin) -> None:
        super().__init__(frozen.config, frozen.index, parts, out, origin)
        self.frozen = frozen

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return what changes nothing."""
        return Still()

    def try_step(self, batch: Batch, rate: float) -> Outcome:  # noqa: ARG002  there is no rate
        """Solve for the head."""
        probe = self.frozen.fit(batch.pictures)
        set_head(self.model, probe)
        answers = torch.from_numpy(probe.logits).to(self.device)
        return Outcome(min(probe.losses), answers, self.objective.targets(batch.labels))

    @torch.inference_mode()
    def known_answers(self, split: str) -> np.ndarray | None:
        """Return what the head makes of the features of a split, None where these cannot be kept."""
        try:
            features = torch.from_numpy(self.frozen.look(split, "pooled").array()[0])
        except Error:  # no room for them: the report measures as ``evaluate`` does, which tells of pictures, too
            return None
        return self.objective.answers(self.model(features.to(self.device)))

    def rate(self, step: int) -> float:  # noqa: ARG002
        """Return 0: nothing moves step by step."""
        return 0.0

    def pace(self) -> str:
        """Say how the head is found."""
        return "a head by cross-validation"


class Still(torch.optim.Optimizer):
    """An optimizer of nothing, without state. To make another, PyTorch imports its compiler, which takes a second."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)


class LazySession:
    """A session of a frozen network that is opened when it is first asked: what is kept needs no network.

    Args:
        file: the network's model file.
        preprocessing: whose size, mean and std are in force.
        device: a torch device.
        count: pictures that it will be asked for, as far as that is known.
    """

    def __init__(self, file: ModelFile, preprocessing: Preprocessing, device: torch.device, count: int) -> None:
        self.file = replace(file, header=replace(file.header, preprocessing=preprocessing))
        self.device = device
        self.count = count

    def choose(self, layer: str) -> str:
        """Return the name of what computes a layer."""
        return f"{self.runtime if layer == 'pooled' else FOLDED} on {self.device.type}"

    @cached_property
    def runtime(self) -> str:
        """What computes pooled features: the fastest there is."""
        fastest = choose_runtime(self.file, "cpu", self.count) if self.device.type == "cpu" else "torch"
        return FOLDED if fastest == "torch" else fastest

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> what the head classifies, float32 (N, F)."""
        return self.session.features(pictures)

    def maps(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> maps that enter the last stage, float16 (N, h, w, C)."""
        return self.trunk.maps(pictures)

    @cached_property
    def session(self) -> Session:
        """What computes pooled features."""
        return self.trunk if self.runtime == FOLDED else open_session(self.file, self.runtime, "cpu")

    @cached_property
    def trunk(self) -> TrunkSession:
        """PyTorch's session, of the network with its norms folded."""
        model = build_model(self.file.header.architecture, self.file.weights).eval()
        return TrunkSession(fold_norms(model), self.file.header.preprocessing, self.device)


def fold_norms(model: ResNetV2) -> ResNetV2:
    """Return an evaluated network in which batch norms that follow a convolution in their unit are part of it.

    The same function but for float32 rounding, and up to a tenth quicker on a processor: two of three norms are gone.
    """
    model = copy.deepcopy(model)
    for unit in model.units():
        for conv, norm in [("conv1", "norm2"), *([("conv2", "norm3")] * unit.bottleneck)]:
            if isinstance(getattr(unit, norm), nn.BatchNorm2d):
                setattr(unit, conv, fuse_conv_bn_eval(getattr(unit, conv), getattr(unit, norm)))
                setattr(unit, norm, nn.Identity())
    return model


def map_bytes(architecture: ResNetV2Config, size: int) -> int:
    """Return the bytes that are kept of the map of a picture of ``size`` pixels a side, in half precision."""
    with torch.device("meta"):
        return 2 * run_trunk(ResNetV2(architecture), torch.empty(1, 3, size, size)).numel()


class FeatureLoader:
    """Pooled features as the only batch of an epoch.

    Args:
        features: (N, F), or in several views (V, N, F).
        samples: the same N pictures.
    """

    workers = 1
    seconds = 0.0

    def __init__(self, features: np.ndarray, samples: Samples) -> None:
        self.features, self.samples = features, samples

    def __len__(self) -> int:
        return 1

    def batches(self, epoch: int = 0, start: int = 0, size: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """Yield everything at once."""
        if start == 0:
            yield Batch(self.features, self.samples.labels, np.arange(len(self.samples)))


@torch.no_grad()
def set_head(head: nn.Module, probe: Probe) -> None:
    """Give a linear layer the weights that were found."""
    head.get_parameter("weight").copy_(torch.from_numpy(probe.weight))
    head.get_parameter("bias").copy_(torch.from_numpy(probe.bias))


@torch.inference_mode()
def _pool(tail: Tail, maps: Features, device: torch.device) -> np.ndarray:
    """Return the pooled features of kept maps, float32 (V, N, F)."""
    tail.eval()
    views, count = maps.shape[:2]
    parts = []
    for low in range(0, views * count, _POOLED_AT_ONCE):
        view, place = np.divmod(np.arange(low, min(low + _POOLED_AT_ONCE, views * count)), count)
        x = unpack_maps(torch.from_numpy(maps.take(place, view)).to(device))
        parts.append(tail.features(x).float().cpu().numpy())
    return np.concatenate(parts).reshape(views, count, -1)


def _as_it_is(values: Tensor) -> Tensor:
    return values


def _say_views(config: TrainConfig) -> str:
    return "each picture once" if config.views == 1 else f"{config.views} views of each picture"
