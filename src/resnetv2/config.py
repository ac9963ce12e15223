"""What a network is: one frozen dataclass, the dialects published under the name ResNet-v2, and the named depths.

Standard library only. Every field is a plain value, so a config survives JSON, a safetensors header and an ONNX
metadata entry unchanged.

An axis exists because two published checkpoints differ on it in a way that no exact rewrite of the weights can hide.
``docs/dialects.md`` tells who needs which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from resnetv2.errors import ConfigError, unknown
from resnetv2.plain import Plain

CHOICES = {
    "block": ("bottleneck", "basic"),
    "norm": ("batch", "group", "evonorm"),
    "stem": ("7x7", "deep", "3x3"),
    "stem_pool": ("ignore", "zero", "same"),
    "stride_unit": ("first", "last"),
    "stride_conv": ("conv2", "conv1"),
    "projection": ("needed", "always"),
    "projection_input": ("preact", "raw"),
}

RANGES = {
    "num_classes": (0, 10_000_000),
    "in_chans": (1, 10_000),
    "width_factor": (1 / 32, 100),  # 1/32: two channels in the stem, one in the deep stem's first half
    "norm_eps": (1e-12, 1),
    "norm_momentum": (0, 1),
    "weight_std_eps": (1e-16, 1),
}


class Unit(NamedTuple):
    """The plan of one residual unit; channels and stride are plain numbers."""

    stage: int
    number: int
    in_channels: int
    mid_channels: int
    out_channels: int
    stride: int
    norm1: bool
    project: bool


@dataclass(frozen=True, kw_only=True)
class ResNetV2Config(Plain):
    """Architecture of one pre-activation ResNet (He et al. 2016, arXiv 1603.05027).

    The defaults are ResNet50-v2 in the "torch" dialect, which is timm's ``resnetv2_50``.

    Raises:
        ConfigError: naming the field, what it may be and what it was.
    """

    noun = "architecture field"

    depths: tuple[int, ...] = (3, 4, 6, 3)  # units in each stage
    block: str = "bottleneck"  # "bottleneck" 1x1-3x3-1x1 | "basic" 3x3-3x3
    width_factor: float = 1.0  # the stem has 64 * width_factor channels; every other width follows
    num_classes: int = 1000  # 0: no head, the model returns pooled features
    in_chans: int = 3
    norm: str = "batch"  # "batch" | "group" (32 groups) | "evonorm" (EvoNorm-S0, 32 groups, its own activation)
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1  # weight of the newest batch in the running statistics (torch's sense)
    weight_std: bool = False  # standardise every convolution kernel (BiT)
    weight_std_eps: float = 1e-10
    input_norm: bool = False  # batch norm on the pixels, without learned scale (MXNet lineage)
    stem: str = "7x7"  # "7x7" stride 2 + pool | "deep" three 3x3, stride 2 + pool ("d") | "3x3" stride 1, no pool
    stem_bias: bool = False
    stem_norm: bool = False  # norm + ReLU between stem convolution and pool
    stem_pool: str = "ignore"  # border of the 3x3/2 max-pool: "ignore" (-inf) | "zero" | "same" (TensorFlow, -inf)
    same_padding: bool = False  # strided 3x3 and 7x7 pad as TensorFlow's SAME: an even side at its end only
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    stride_unit: str = "first"  # the unit of a stage that strides: "first" | "last" (Keras, TF-Slim)
    stride_conv: str = "conv2"  # the convolution of that unit that strides, in bottlenecks
    projection: str = "needed"  # 1x1 shortcut: "needed" (shape changes) | "always" (first unit of every stage)
    projection_input: str = "preact"  # the projection reads relu(norm1(x)) | "raw" x, with a norm of its own after
    projection_pool: bool = False  # 2x2 average pool before a strided projection ("d")
    out_bias: bool = False  # bias on the projection and on the last convolution of a unit
    first_norm: bool = True  # whether the very first unit has its own norm1

    def __post_init__(self) -> None:
        problems = list(self._mistyped()) or list(self._out_of_range())
        if problems:
            raise ConfigError("; ".join(problems))

    def _out_of_range(self) -> Iterator[str]:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                yield f"{name} must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}"
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                yield f"{name} must lie in {least:g} … {most:g}, got {getattr(self, name)!r}"
        if not self.depths or any(type(d) is not int or d < 1 for d in self.depths):
            yield f"depths must be whole numbers of at least 1, got {self.depths!r}"
        if len(self.stage_strides) != len(self.depths) or any(s not in (1, 2) for s in self.stage_strides):
            yield f"stage_strides must hold 1 or 2 for each of {len(self.depths)} stages, got {self.stage_strides!r}"
        yield from self._conflicts()

    def _conflicts(self) -> Iterator[str]:
        if RANGES["width_factor"][0] <= self.width_factor <= RANGES["width_factor"][1]:
            smallest = self.stem_channels // 2 if self.stem == "deep" else self.stem_channels
            if self.norm != "batch" and smallest % 32:
                yield f"width_factor {self.width_factor!r} leaves {smallest} channels; norm {self.norm!r} has 32 groups"
        if self.stem_norm and self.stem == "deep":
            yield "stem_norm is for the '7x7' and '3x3' stems"
        if not self.first_norm and not self.stem_norm:
            yield "first_norm=False needs stem_norm=True: something must norm the first unit's input"
        if self.weight_std and self.same_padding:
            yield "weight_std and same_padding exclude each other: no published network has both"

    @property
    def stem_channels(self) -> int:
        """Channels of the stem, 64 in the ImageNet networks of width 1."""
        return round(64 * self.width_factor)

    @property
    def num_features(self) -> int:
        """Channels of the last map and of the pooled features, 2048 in ResNet50-v2."""
        return self.stage_channels(len(self.depths) - 1)

    def stage_channels(self, stage: int) -> int:
        """Return the output channels of a stage counted from 0."""
        return self.stem_channels * (4 if self.block == "bottleneck" else 1) << stage

    def units(self) -> Iterator[Unit]:
        """Yield the plan of every residual unit in order of execution."""
        channels = self.stem_channels
        for stage, depth in enumerate(self.depths):
            out = self.stage_channels(stage)
            strided = 0 if self.stride_unit == "first" else depth - 1
            for index in range(depth):
                stride = self.stage_strides[stage] if index == strided else 1
                changes = channels != out or (stride != 1 and self.stride_unit == "first")
                yield Unit(
                    stage=stage,
                    number=index,
                    in_channels=channels,
                    mid_channels=out // 4 if self.block == "bottleneck" else out,
                    out_channels=out,
                    stride=stride,
                    norm1=self.first_norm or (stage, index) != (0, 0),
                    project=changes or (self.projection == "always" and index == 0),
                )
                channels = out


DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "keras": {
        "norm_eps": 1.001e-5,
        "norm_momentum": 0.01,
        "stem_bias": True,
        "stem_pool": "zero",
        "stage_strides": (2, 2, 2, 1),
        "stride_unit": "last",
        "projection": "always",
        "out_bias": True,
    },
    "slim": {
        "norm_momentum": 0.003,
        "stem_bias": True,
        "stem_pool": "same",
        "stage_strides": (2, 2, 2, 1),
        "stride_unit": "last",
        "projection": "always",
        "out_bias": True,
    },
    "official": {"norm_momentum": 0.003, "stem_pool": "same", "projection": "always"},
    "bit": {"norm": "group", "weight_std": True, "stem_pool": "zero"},
    "gluon": {"input_norm": True, "stem_norm": True},
    "symbol": {"input_norm": True, "stem_norm": True, "norm_eps": 2e-5, "projection": "always"},
    "pytorchcv": {"stem_norm": True, "stride_conv": "conv1"},
    "pytorchcv-b": {"stem_norm": True},
    "kerascv": {
        "norm_eps": 1.001e-5,
        "norm_momentum": 0.01,
        "stem_bias": True,
        "stem_pool": "same",
        "same_padding": True,
        "stride_unit": "last",
        "projection": "always",
        "out_bias": True,
    },
    "torch7": {"stem_norm": True, "projection_input": "raw"},
    "haiku": {"stem_pool": "same", "same_padding": True},
}

_D = {"stem": "deep", "projection_pool": True}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18v2": {"depths": (2, 2, 2, 2), "block": "basic"},
    "resnet34v2": {"depths": (3, 4, 6, 3), "block": "basic"},
    "resnet50v2": {"depths": (3, 4, 6, 3)},
    "resnet101v2": {"depths": (3, 4, 23, 3)},
    "resnet152v2": {"depths": (3, 8, 36, 3)},
    "resnet200v2": {"depths": (3, 24, 36, 3)},
    "resnet18v2d": {"depths": (2, 2, 2, 2), "block": "basic", **_D},
    "resnet34v2d": {"depths": (3, 4, 6, 3), "block": "basic", **_D},
    "resnet50v2d": {"depths": (3, 4, 6, 3), **_D},
    "resnet101v2d": {"depths": (3, 4, 23, 3), **_D},
    "resnet152v2d": {"depths": (3, 8, 36, 3), **_D},
}


def architecture(name: str, dialect: str = "torch", **changes: Any) -> ResNetV2Config:
    """Return the config of a named depth in a dialect, with any field replaced.

    Args:
        name: a key of ``ARCHITECTURES``, such as "resnet50v2".
        dialect: a key of ``DIALECTS``; whose ResNet-v2 this is.
        changes: fields of ``ResNetV2Config``.

    Raises:
        ConfigError: unknown name, dialect or field (with the nearest known one), or a value out of range.
    """
    if name not in ARCHITECTURES:
        raise ConfigError(unknown("architecture", name, ARCHITECTURES))
    if dialect not in DIALECTS:
        raise ConfigError(unknown("dialect", dialect, DIALECTS))
    return ResNetV2Config.from_dict({**ARCHITECTURES[name], **DIALECTS[dialect], **changes})
