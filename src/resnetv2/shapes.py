"""Every tensor of a network by name and shape, from its config alone (torch is not needed)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from resnetv2.config import ResNetV2Config, Unit
from resnetv2.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np

_NORM = {
    "batch": ("weight", "bias", "running_mean", "running_var"),
    "group": ("weight", "bias"),
    "evonorm": ("weight", "bias", "v"),
}


class Module(NamedTuple):
    """One module of ``ResNetV2`` that holds tensors: its name, its kind, and the shape of each tensor."""

    name: str  # "stages.0.blocks.0.conv1"
    kind: str  # "conv" (out, in, height, width) | "norm" (channels,) | "dense" (out, in)
    tensors: dict[str, tuple[int, ...]]  # "weight" -> shape


def modules(config: ResNetV2Config) -> Iterator[Module]:
    """Yield the modules that hold tensors, in order of execution; the projection before the unit's first convolution.

    The norms' ``num_batches_tracked`` is no tensor of ours: nothing reads it.
    """
    if config.input_norm:
        yield _norm("batch", "input_norm", config.in_chans)
    yield from _stem(config)
    for unit in config.units():
        yield from _unit(config, unit)
    yield _norm(config.norm, "norm", config.num_features)
    if config.num_classes:
        shapes = {"weight": (config.num_classes, config.num_features), "bias": (config.num_classes,)}
        yield Module("head.fc", "dense", shapes)


def tensor_shapes(config: ResNetV2Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and statistic of ``ResNetV2(config)`` by its name there."""
    return {f"{m.name}.{tensor}": shape for m in modules(config) for tensor, shape in m.tensors.items()}


def check_shapes(config: ResNetV2Config, weights: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that are not all a network has, each of its shape, in float32.

    Raises:
        ModelFileError: every misfit is named.
    """
    expected = tensor_shapes(config)
    given = {name: value.shape for name, value in weights.items()}
    problems = [f"absent: {name}" for name in expected if name not in given]
    problems += [f"unknown: {name}" for name in given if name not in expected]
    problems += [
        f"{name} is {given[name]}, expected {shape}"
        for name, shape in expected.items()
        if given.get(name, shape) != shape
    ]
    problems += [f"{n} is {v.dtype}, expected float32" for n, v in weights.items() if v.dtype != "float32"]
    if problems:
        raise ModelFileError("the weights do not fit the architecture:\n  " + "\n  ".join(problems))


def count_parameters(config: ResNetV2Config) -> int:
    """Return the number of trainable numbers: statistics and the fixed scale on the pixels do not count."""
    return sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if not name.endswith(("running_mean", "running_var")) and name != "input_norm.weight"
    )


def _stem(config: ResNetV2Config) -> Iterator[Module]:
    chans, out = config.in_chans, config.stem_channels
    if config.stem == "deep":
        half = out // 2
        yield _conv("stem.conv1", chans, half, 3)
        yield _norm(config.norm, "stem.norm1", half)
        yield _conv("stem.conv2", half, half, 3)
        yield _norm(config.norm, "stem.norm2", half)
        yield _conv("stem.conv3", half, out, 3, config.stem_bias)
    else:
        yield _conv("stem.conv", chans, out, 7 if config.stem == "7x7" else 3, config.stem_bias)
    if config.stem_norm:
        yield _norm(config.norm, "stem.norm", out)


def _unit(config: ResNetV2Config, unit: Unit) -> Iterator[Module]:
    name = f"stages.{unit.stage}.blocks.{unit.number}"
    channels, mid, out = unit.in_channels, unit.mid_channels, unit.out_channels
    if unit.norm1:
        yield _norm(config.norm, f"{name}.norm1", channels)
    if unit.project:
        yield _conv(f"{name}.downsample.conv", channels, out, 1, config.out_bias)
        if config.projection_input == "raw":
            yield _norm(config.norm, f"{name}.downsample.norm", out)
    if config.block == "bottleneck":
        yield _conv(f"{name}.conv1", channels, mid, 1)
        yield _norm(config.norm, f"{name}.norm2", mid)
        yield _conv(f"{name}.conv2", mid, mid, 3)
        yield _norm(config.norm, f"{name}.norm3", mid)
        yield _conv(f"{name}.conv3", mid, out, 1, config.out_bias)
    else:
        yield _conv(f"{name}.conv1", channels, mid, 3)
        yield _norm(config.norm, f"{name}.norm2", mid)
        yield _conv(f"{name}.conv2", mid, out, 3, config.out_bias)


def _conv(name: str, channels: int, out: int, kernel: int, bias: bool = False) -> Module:
    tensors: dict[str, tuple[int, ...]] = {"weight": (out, channels, kernel, kernel)}
    return Module(name, "conv", {**tensors, "bias": (out,)} if bias else tensors)


def _norm(kind: str, name: str, channels: int) -> Module:
    return Module(name, "norm", dict.fromkeys(_NORM[kind], (channels,)))
