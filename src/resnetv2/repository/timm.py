"""timm's ``config.json``: what ``timm.create_model("hf-hub:…")`` builds, and how it prepares pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resnetv2.config import ResNetV2Config
from resnetv2.errors import ConvertError
from resnetv2.preprocess import Preprocessing
from resnetv2.repository.limits import check_pictures
from resnetv2.repository.transformers import PROBLEMS
from resnetv2.weights.modelfile import Header

_BATCH = {  # name: block, depths
    "resnetv2_18": ("basic", (2, 2, 2, 2)),
    "resnetv2_34": ("basic", (3, 4, 6, 3)),
    "resnetv2_50": ("bottleneck", (3, 4, 6, 3)),
    "resnetv2_101": ("bottleneck", (3, 4, 23, 3)),
    "resnetv2_152": ("bottleneck", (3, 8, 36, 3)),
}
_BIT = {  # name: depths, width
    "resnetv2_50x1_bit": ((3, 4, 6, 3), 1),
    "resnetv2_50x3_bit": ((3, 4, 6, 3), 3),
    "resnetv2_101x1_bit": ((3, 4, 23, 3), 1),
    "resnetv2_101x3_bit": ((3, 4, 23, 3), 3),
    "resnetv2_152x2_bit": ((3, 8, 36, 3), 2),
    "resnetv2_152x4_bit": ((3, 8, 36, 3), 4),
}
_MULTIPLE = 8  # of which timm makes every number of channels


def write_config(header: Header) -> dict[str, Any]:
    """Return the ``config.json`` of a network that timm has; see ``conversion.write_checkpoint`` for which it has.

    Raises:
        ConvertError: timm has no such network, or cannot prepare pictures like this.
    """
    config, preprocessing = header.architecture, header.preprocessing
    name, arguments = _name(config)
    size = preprocessing.image_size
    pixels = {
        "input_size": [3, size, size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_pct(preprocessing),
        "crop_mode": "squash" if preprocessing.fit == "squash" else "center",
        "mean": [value / 255 for value in preprocessing.mean],
        "std": [value / 255 for value in preprocessing.std],
    }
    modules = {"first_conv": "stem.conv1" if config.stem == "deep" else "stem.conv", "classifier": "head.fc"}
    fixed = {"fixed_input_size": False, "num_classes": config.num_classes}
    values = {
        "architecture": name,
        "num_classes": config.num_classes,
        "num_features": config.num_features,
        "global_pool": "avg",
        "model_args": arguments,
        "label_names": list(header.classes),
        "problem_type": PROBLEMS[header.task] if header.task != "classification" else "",
        "pretrained_cfg": {**pixels, **fixed, **modules},
    }
    return {key: value for key, value in values.items() if value not in ({}, [], "")}


def read_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """Return how timm prepares pictures for the network of a ``config.json``.

    Raises:
        KeyError, TypeError, ValueError: it does not say so, or it is what we do not do.
    """
    pixels = config.get("pretrained_cfg", config)  # older configs have one level
    _, height, width = pixels["input_size"]
    mode = pixels.get("crop_mode", "center")
    if height != width or mode not in ("center", "squash"):
        raise ValueError(f"pictures of {height}×{width} pixels and crop_mode {mode!r} are not supported")
    return Preprocessing(
        image_size=width,
        resize=math.floor(width / pixels["crop_pct"]),
        fit="squash" if mode == "squash" else "shortest",
        interpolation=pixels["interpolation"],
        mean=tuple(255 * value for value in pixels["mean"]),
        std=tuple(255 * value for value in pixels["std"]),
    )


def _name(config: ResNetV2Config) -> tuple[str, dict[str, Any]]:
    """Return the name of timm's network, and the arguments by which it becomes this one."""
    if config.stem == "3x3":
        raise ConvertError("timm has no such network: stem is '3x3', and timm's networks have '7x7' or 'deep'")
    if config.weight_std:
        for name, (depths, width) in _BIT.items():
            if (config.depths, config.width_factor) == (depths, width):
                return name, {}
        raise ConvertError(
            f"timm has no BiT of depths {config.depths} and width {config.width_factor:g}: {', '.join(_BIT)}"
        )
    if config.stem_channels % _MULTIPLE:
        raise ConvertError(f"timm's channels are multiples of {_MULTIPLE}, and the stem has {config.stem_channels}")
    if config.norm != "batch":
        name = {"group": "resnetv2_50d_gn", "evonorm": "resnetv2_50d_evos"}[config.norm]
        base = ResNetV2Config(stem="deep", projection_pool=True)
    else:
        named = [name for name, known in _BATCH.items() if known == (config.block, config.depths)]
        name = named[0] if named else "resnetv2_18" if config.block == "basic" else "resnetv2_50"
        deep = {"stem": "deep", "projection_pool": True} if config.stem == "deep" else {}
        base = ResNetV2Config.from_dict({"block": _BATCH[name][0], "depths": _BATCH[name][1], **deep})
        name += "d" if deep else ""
    return name, _arguments(config, base)


def _arguments(config: ResNetV2Config, base: ResNetV2Config) -> dict[str, Any]:
    """Return the arguments of timm's ``ResNetV2`` by which two networks differ."""

    def arguments(one: ResNetV2Config) -> dict[str, Any]:
        is_basic = one.block == "basic"
        return {
            "layers": list(one.depths),
            "channels": [one.stage_channels(stage) for stage in range(len(one.depths))],
            "stem_chs": one.stem_channels,
            "stem_type": "deep" if one.stem == "deep" else "",
            "avg_down": one.projection_pool,
            "basic": is_basic,
            "bottle_ratio": 1.0 if is_basic else 0.25,
        }

    theirs = arguments(base)
    return {key: value for key, value in arguments(config).items() if value != theirs[key]}


def _crop_pct(preprocessing: Preprocessing) -> float:
    """Return the share by which timm comes to ``resize``: it takes the floor of image_size / crop_pct."""
    check_pictures("timm", preprocessing)
    share = preprocessing.image_size / preprocessing.resize
    while math.floor(preprocessing.image_size / share) < preprocessing.resize:  # a quotient that was rounded up
        share = math.nextafter(share, 0)
    return share
