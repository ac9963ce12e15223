"""Google's TensorFlow checkpoints: TF-Slim, the official models, and Big Transfer (BiT)."""

from __future__ import annotations

from dataclasses import replace

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.publisher import TENSORFLOW, Geometry, Publisher, Style, always, count_modules, name_modules
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import modules

_SLIM_PARTS = {
    "norm1": "preact",
    "downsample.conv": "shortcut",
    "conv1": "conv1",
    "norm2": "conv1/BatchNorm",
    "conv2": "conv2",
    "norm3": "conv2/BatchNorm",
    "conv3": "conv3",
}
_SLIM: Style = {
    "conv": {"weight": ("{}/weights", "conv"), "bias": ("{}/biases", "same")},
    "norm": TENSORFLOW["norm"],
    "dense": {"weight": ("{}/weights", "conv_dense"), "bias": ("{}/biases", "same")},
}
_BIT_PARTS = {
    "downsample.conv": "a/proj/standardized_conv2d",
    **{f"conv{n}": f"{letter}/standardized_conv2d" for n, letter in enumerate("abc", 1)},
    **{f"norm{n}": f"{letter}/group_norm" for n, letter in enumerate("abc", 1)},
}
_BIT: Style = {**TENSORFLOW, "dense": {"weight": ("{}/kernel", "conv_dense"), "bias": ("{}/bias", "same")}}
_BACKGROUND = "class 0 is the background"


AS_TRAINED = Geometry(  # TF-Slim's Inception preprocessing for evaluation
    Preprocessing(
        image_size=299,
        resize=299,
        fit="squash",
        interpolation="bilinear",
        central_fraction=0.875,
        sampling="asymmetric",
    ),
    "",
)


def _slim_names(config: ResNetV2Config) -> dict[str, str]:
    def unit(stage: int, number: int, part: str) -> str | None:
        prefix = f"block{stage + 1}/unit_{number + 1}/bottleneck_v2"
        return f"{prefix}/{_SLIM_PARTS[part]}" if part in _SLIM_PARTS else None

    return name_modules(config, {"stem.conv": "conv1", "norm": "postnorm", "head.fc": "logits"}, unit)


def _official_names(config: ResNetV2Config) -> dict[str, str]:
    return count_modules(modules(config))


def _bit_names(config: ResNetV2Config) -> dict[str, str]:
    def unit(stage: int, number: int, part: str) -> str | None:
        prefix = f"resnet/block{stage + 1}/unit{number + 1:02d}"
        return f"{prefix}/{_BIT_PARTS[part]}" if part in _BIT_PARTS else None

    fixed = {
        "stem.conv": "resnet/root_block/standardized_conv2d",
        "norm": "resnet/group_norm",
        "head.fc": "resnet/head/conv2d",
    }
    return name_modules(config, fixed, unit)


def _slim_geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    text = f"224 pixels are TF-Slim's default, 299 those of the variant as-trained; {_BACKGROUND}"
    return Geometry(replace(AS_TRAINED.preprocessing, image_size=224, resize=224), text)


def _official_geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    preprocessing = Preprocessing(
        resize=256,
        interpolation="bilinear",
        mean=(123.68, 116.78, 103.94),
        std=(1.0, 1.0, 1.0),
        sampling="asymmetric",
        crop_offset="floor",
    )
    return Geometry(preprocessing, _BACKGROUND)


def _bit_geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    text = (
        "480 pixels are BiT's own rule for large pictures, antialiased as in its PyTorch code (its TensorFlow code is "
        "not: sampling='half_pixel'); distilled checkpoints take the size in their file's name"
    )
    return Geometry(Preprocessing(image_size=480, resize=480, fit="squash", interpolation="bilinear"), text)


SLIM = Publisher(
    name="slim",
    title="TF-Slim",
    style=_SLIM,
    names=_slim_names,
    dialects=always("slim"),
    geometry=_slim_geometry,
    as_trained=({}, AS_TRAINED),
    aliases=((r"^(module(_\d+)?/)?resnet_v2_\d+/", ""),),  # module/: a network of TensorFlow Hub within another graph
    ignored=r"^global_step$|/(Momentum|RMSProp(_1)?|ExponentialMovingAverage)$",
    background=True,
)

OFFICIAL = Publisher(
    name="official",
    title="TensorFlow's official models",
    style=TENSORFLOW,
    names=_official_names,
    dialects=always("official"),
    geometry=_official_geometry,
    aliases=((r"^resnet_model/", ""),),
    ignored=r"^global_step$|/Momentum$|^(current_)?loss_scale",
    background=True,
)

BIT = Publisher(
    name="bit",
    title="Big Transfer (BiT)",
    style=_BIT,
    names=_bit_names,
    dialects=always("bit"),
    geometry=_bit_geometry,
    aliases=((r"(standardized_conv2d|group_norm|conv2d)_\d+(?=/)", r"\1"),),  # some files number the scopes
)
