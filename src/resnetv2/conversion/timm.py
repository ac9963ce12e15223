"""timm's resnetv2 family: names equal to ours, but for a head that is a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnetv2.config import DIALECTS, ResNetV2Config
from resnetv2.conversion.publisher import PLAIN, Geometry, Publisher, Tensors
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import modules

_CAVEAT = "timm's size and crop belong to the tag of the checkpoint, which the file does not hold"


def _names(config: ResNetV2Config) -> dict[str, str]:
    return {module.name: module.name for module in modules(config) if module.name not in ("input_norm", "stem.norm")}


def _dialects(tensors: Tensors, measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    deep = {"projection_pool": True} if measured["stem"] == "deep" else {}
    if "norm.running_var" in tensors:
        return {"torch": deep}
    if "norm.v" in tensors:
        return {"torch": {**deep, "norm": "evonorm"}}
    if deep:
        return {"torch": {**deep, "norm": "group"}}
    return {"bit": {**DIALECTS["bit"], "weight_std_eps": 1e-8}}  # of timm's GroupNorm networks, the one with a 7x7 stem


def _geometry(config: ResNetV2Config) -> Geometry:
    if not config.weight_std:
        resize = 248 if config.block == "basic" else 235  # 224 / 0.9 and 224 / 0.95
        return Geometry(Preprocessing(image_size=224, resize=resize), f"{_CAVEAT}: 224 of {resize} pixels are assumed")
    if config.num_classes == 21843:
        return Geometry(Preprocessing(image_size=224, resize=256, interpolation="bilinear"), "")
    size = 480 if config.stem_channels == 256 else 448
    text = f"{_CAVEAT}: fine-tuned weights ({size} pixels) are assumed; distilled ones take 224 of 256, bicubic"
    return Geometry(Preprocessing(image_size=size, resize=size, interpolation="bilinear"), text)


TIMM = Publisher(
    name="timm",
    title="timm",
    style={**PLAIN, "dense": {"weight": ("{}.weight", "pointwise"), "bias": ("{}.bias", "same")}},
    names=_names,
    dialects=_dialects,
    geometry=_geometry,
    ignored=r"\.num_batches_tracked$",
)
