"""MXNet: Gluon, its export to the ONNX Model Zoo, and the networks built from symbols before Gluon.

Their norm on the pixels stores a scale that MXNet ignores: here it is 1, whatever the file holds.
"""

from __future__ import annotations

from dataclasses import replace

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.publisher import Geometry, Publisher, Style, always, name_modules
from resnetv2.preprocess import Preprocessing

_IMAGENET = Preprocessing(
    resize=256,
    interpolation="bilinear",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    sampling="half_pixel",
    crop_offset="floor",
)
_SCALE = {"weight": "gamma", "bias": "beta"}
_GLUON: Style = {
    "conv": {"weight": ("{}.weight", "same")},
    "norm": {t: (f"{{}}.{_SCALE.get(t, t)}", "same") for t in ("weight", "bias", "running_mean", "running_var")},
    "dense": {"weight": ("{}.weight", "same"), "bias": ("{}.bias", "same")},
}
_EXPORT: Style = {
    kind: {tensor: (name.replace(".", "_"), op) for tensor, (name, op) in tensors.items()}
    for kind, tensors in _GLUON.items()
}
_SYMBOL: Style = {
    "conv": {"weight": ("arg:{}_weight", "same")},
    "norm": {
        "weight": ("arg:{}_gamma", "same"),
        "bias": ("arg:{}_beta", "same"),
        "running_mean": ("aux:{}_moving_mean", "same"),
        "running_var": ("aux:{}_moving_var", "same"),
    },
    "dense": {"weight": ("arg:{}_weight", "same"), "bias": ("arg:{}_bias", "same")},
}


def _gluon_names(config: ResNetV2Config) -> dict[str, str]:
    def unit(stage: int, number: int, part: str) -> str:
        return f"features.{stage + 5}.{number}." + {"downsample.conv": "downsample"}.get(
            part, part.replace("norm", "bn")
        )

    fixed = {
        "input_norm": "features.0",
        "stem.conv": "features.1",
        "stem.norm": "features.2",
        "norm": "features.9",
        "head.fc": "output",
    }
    return name_modules(config, fixed, unit)


def _export_names(config: ResNetV2Config) -> dict[str, str]:
    """Count norms and convolutions within each stage; a unit's projection comes after its last convolution."""
    units = list(config.units())
    convs = 3 if config.block == "bottleneck" else 2

    def unit(stage: int, number: int, part: str) -> str:
        if part.startswith("norm"):
            return f"stage{stage + 1}_batchnorm{convs * number + int(part[4:]) - 1}"
        projections = sum(u.project for u in units if u.stage == stage and u.number < number)
        place = convs if part == "downsample.conv" else int(part[4:]) - 1
        return f"stage{stage + 1}_conv{convs * number + projections + place}"

    fixed = {
        "input_norm": "batchnorm0",
        "stem.conv": "conv0",
        "stem.norm": "batchnorm1",
        "norm": "batchnorm2",
        "head.fc": "dense0",
    }
    return name_modules(config, fixed, unit)


def symbol_names(config: ResNetV2Config) -> dict[str, str]:
    """Return the names that MXNet had before Gluon, by ours."""

    def unit(stage: int, number: int, part: str) -> str:
        name = "sc" if part == "downsample.conv" else part.replace("norm", "bn")
        return f"stage{stage + 1}_unit{number + 1}_{name}"

    fixed = {"input_norm": "bn_data", "stem.conv": "conv0", "stem.norm": "bn0", "norm": "bn1", "head.fc": "fc1"}
    return name_modules(config, fixed, unit)


def _geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    return Geometry(_IMAGENET, "")


def symbol_geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    """Return how MXNet prepared pictures before Gluon."""
    raw = replace(_IMAGENET, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Geometry(raw, "pixels of 0 to 255 as they are; the published 224 pixels of 256, bilinear, are assumed")


GLUON = Publisher(
    name="gluon",
    title="MXNet Gluon",
    style=_GLUON,
    names=_gluon_names,
    dialects=always("gluon"),
    geometry=_geometry,
)

ONNX_ZOO = Publisher(
    name="onnx-zoo",
    title="the ONNX Model Zoo (exported from Gluon)",
    style=_EXPORT,
    names=_export_names,
    dialects=always("gluon"),
    geometry=_geometry,
    ignored=r"^reshape_attr_tensor\d+$",  # a shape, which the exporter made a constant
    aliases=((r"^(arg:|aux:)?resnetv2\d+_", ""),),  # the number grows with the depth and with each network built
)

SYMBOL = Publisher(
    name="symbol",
    title="MXNet before Gluon",
    style=_SYMBOL,
    names=symbol_names,
    dialects=always("symbol"),
    geometry=symbol_geometry,
)
