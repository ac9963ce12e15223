"""Facebook's resnet-200.t7, of April 2016: a tree of Lua Torch's modules, by their places in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnetv2.config import DIALECTS, ResNetV2Config
from resnetv2.conversion.publisher import PLAIN, Geometry, Publisher, Tensors, name_modules
from resnetv2.preprocess import Preprocessing

_FIXED = {"stem.conv": "1", "stem.norm": "2", "norm": "10", "head.fc": "14"}  # 9 is a copy, 11 to 13 hold nothing
# A unit is Sequential(ConcatTable(branch, shortcut), CAddTable); norm, ReLU and convolution alternate in the branch.
_PARTS = {"downsample.conv": "2.1", "downsample.norm": "2.2"} | {
    f"{kind}{n + 1}": f"1.{3 * n + place}" for n in range(3) for kind, place in (("norm", 1), ("conv", 3))
}


def _names(config: ResNetV2Config) -> dict[str, str]:
    return name_modules(config, _FIXED, lambda stage, number, part: f"{stage + 5}.{number + 1}.1.{_PARTS[part]}")


def _dialects(tensors: Tensors, measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ARG001
    biases = {"stem_bias": True, "out_bias": True} if "1.bias" in tensors else {}
    return {"torch7": {**DIALECTS["torch7"], **biases}}


def _absorb_biases(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take the bias of a unit's inner convolutions into the mean of the norm that follows: the same network."""
    absorbed = dict(weights)
    for name, bias in weights.items():
        inner = re.fullmatch(r"(\d+\.\d+\.1\.1)\.([36])\.bias", name)
        norm = f"{inner[1]}.{int(inner[2]) + 1}.running_mean" if inner else ""
        if norm in weights and weights[norm].shape == bias.shape:
            absorbed[norm] = (weights[norm].astype(np.float64) - bias).astype(weights[norm].dtype)
            del absorbed[name]
    return absorbed


def _geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    imagenet = Preprocessing(resize=256, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    return Geometry(
        imagenet,
        "Torch's bicubic filter is not antialiased, takes corner to corner and rounds the crop up; ours does neither",
    )


TORCH7 = Publisher(
    name="torch7",
    title="Facebook's resnet-200.t7",
    style=PLAIN,
    names=_names,
    dialects=_dialects,
    geometry=_geometry,
    ignored=r"^(?!(\d+\.)+(weight|bias|running_mean|running_var)$)",  # gradients and what the last pass left
    prepare=_absorb_biases,
)
