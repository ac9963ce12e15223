"""pytorchcv's preresnet family: ImageNet's, with and without "b", and CIFAR's with a 3x3 stem.

Its narrow forms ("preresnet18_w3d4") keep their last unit wide, which ``ResNetV2Config`` does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnetv2.config import DIALECTS, ResNetV2Config
from resnetv2.conversion.publisher import PLAIN, Geometry, Publisher, Tensors, name_modules
from resnetv2.preprocess import Preprocessing


def _names(config: ResNetV2Config) -> dict[str, str]:
    def unit(stage: int, number: int, part: str) -> str | None:
        name = f"features.stage{stage + 1}.unit{number + 1}"
        if part.startswith("downsample"):
            return f"{name}.identity_conv" if part == "downsample.conv" else None
        kind = "bn" if part.startswith("norm") else "conv"
        return f"{name}.body.conv{part[-1]}.{kind}"

    stem = {"stem.conv": "features.init_block.conv", "stem.norm": "features.init_block.bn"}
    return name_modules(config, {**stem, "norm": "features.post_activ.bn", "head.fc": "output"}, unit)


def _dialects(tensors: Tensors, measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ARG001
    if measured["stem"] == "3x3":
        return {"pytorchcv-b": {**DIALECTS["pytorchcv-b"], "stem_norm": False}}
    if measured["block"] == "basic":  # both forms are the same network
        return {"pytorchcv-b": DIALECTS["pytorchcv-b"]}
    return {name: DIALECTS[name] for name in ("pytorchcv", "pytorchcv-b")}


def _geometry(config: ResNetV2Config) -> Geometry:
    if config.stem == "3x3":
        cifar = Preprocessing(
            image_size=32,
            resize=32,
            interpolation="bilinear",
            mean=(125.307, 122.961, 113.8575),
            std=(51.5865, 50.847, 51.255),
        )
        return Geometry(cifar, "the training scripts of CIFAR and SVHN take pictures of 32 pixels and resize nothing")
    imagenet = Preprocessing(
        resize=256, interpolation="bilinear", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    return Geometry(imagenet, "")


PYTORCHCV = Publisher(
    name="pytorchcv",
    title="pytorchcv",
    style=PLAIN,
    names=_names,
    dialects=_dialects,
    geometry=_geometry,
    aliases=((r"^features\.init_block\.weight$", "features.init_block.conv.weight"),),  # CIFAR's stem has no norm
    ignored=r"\.num_batches_tracked$",
)
