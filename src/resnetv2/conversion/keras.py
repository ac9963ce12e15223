"""Keras: Applications, KerasHub, KerasCV and qubvel's models, by names of layers or by Keras 3's numbers of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resnetv2.config import DIALECTS, ResNetV2Config
from resnetv2.conversion.mxnet import symbol_geometry, symbol_names
from resnetv2.conversion.publisher import (
    TENSORFLOW,
    Geometry,
    Publisher,
    Style,
    Tensors,
    always,
    count_modules,
    name_modules,
)
from resnetv2.conversion.tensorflow import AS_TRAINED
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import Module, modules

_FIXED = {"stem.conv": "conv1_conv", "norm": "post_bn", "head.fc": "predictions"}
_PARTS = {
    "downsample.conv": "0_conv",
    "conv1": "1_conv",
    "norm2": "1_bn",  # it follows the first convolution
    "conv2": "2_conv",
    "norm3": "2_bn",
    "conv3": "3_conv",
}

_NUMBERED: Style = {  # layers/conv2d_3/vars/0
    "conv": {"weight": ("{}/vars/0", "conv"), "bias": ("{}/vars/1", "same")},
    "norm": {
        tensor: (f"{{}}/vars/{n}", "same") for n, tensor in enumerate(("weight", "bias", "running_mean", "running_var"))
    },
    "dense": {"weight": ("{}/vars/0", "dense"), "bias": ("{}/vars/1", "same")},
}

# The legacy file's conv1_conv/conv1_conv/kernel:0, in a whole model below model_weights/
_LEGACY = ((r"^model_weights/", ""), (r"^([^/]+)/\1/", r"\1/"), (r":0$", ""))
_EXTRAS = r"^(optimizer|_?optimizer_weights|top_level_model_weights)/|(^|/)seed_generator/"


def _spelling(unit: str, preact: str, first: tuple[int, int]) -> Callable[[ResNetV2Config], dict[str, str]]:
    parts = {**_PARTS, "norm1": preact}

    def spell(stage: int, number: int, part: str) -> str | None:
        name = unit.format(stage + first[0], number + first[1])
        return f"{name}_{parts[part]}" if part in parts else None

    return lambda config: name_modules(config, _FIXED, spell)


def _graph_order(config: ResNetV2Config) -> Iterator[Module]:
    """Yield the modules as Keras sorts its layers: a unit's projection stands before its last convolution."""
    last = ".conv3" if config.block == "bottleneck" else ".conv2"
    waiting: list[Module] = []
    for module in modules(config):
        if module.name.endswith("downsample.conv"):
            waiting.append(module)
            continue
        if module.name.endswith(last):
            yield from waiting
            waiting.clear()
        yield module


def _numbered(config: ResNetV2Config) -> dict[str, str]:
    return count_modules(_graph_order(config), "layers/")


def _applications(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    return Geometry(
        Preprocessing(image_size=299, resize=342, interpolation="bilinear"),
        "Keras fixes the scaling alone; its published accuracy belongs to pictures of 299 pixels, which are assumed",
    )


# Their origin, TF-Slim's weights without the background, by names, graph and figures; no file was compared
_AS_TRAINED: tuple[dict[str, Any], Geometry] = ({"stem_pool": "same", "norm_eps": 1e-5}, AS_TRAINED)


def _hub(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    return Geometry(Preprocessing(fit="square", sampling="half_pixel"), "")


def _cv(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    text = "KerasCV fixes the scaling (division by 255) alone; 224 pixels, resized with bilinear, are assumed"
    black_to_white = Preprocessing(interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    return Geometry(black_to_white, text)


def _headless_cv(tensors: Tensors, measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ARG001
    """Offer KerasCV's graph for backbones alone: its classifiers nest their backbone, which changes the numbers."""
    return {} if measured["num_classes"] else {"kerascv": DIALECTS["kerascv"]}


KERAS = Publisher(
    name="keras",
    title="Keras Applications",
    style=TENSORFLOW,
    names=_spelling("conv{}_block{}", "preact_bn", (2, 1)),
    dialects=always("keras"),
    order=_graph_order,
    geometry=_applications,
    as_trained=_AS_TRAINED,
    aliases=_LEGACY,
    ignored=_EXTRAS,
)

KERASHUB = Publisher(
    name="kerashub",
    title="KerasHub by layer names",
    style=TENSORFLOW,
    names=_spelling("stack{}_block{}", "pre_activation_bn", (0, 0)),
    dialects=always("torch"),
    order=_graph_order,
    geometry=_hub,
    aliases=_LEGACY,
    ignored=_EXTRAS,
)

KERASCV = Publisher(
    name="kerascv",
    title="KerasCV",
    style=TENSORFLOW,
    names=_spelling("v2_stack_{}_block{}", "use_preactivation_bn", (0, 1)),
    dialects=always("kerascv"),
    order=_graph_order,
    geometry=_cv,
    aliases=_LEGACY,
    ignored=_EXTRAS,
)

KERAS3 = Publisher(
    name="keras3",
    title="Keras Applications in Keras 3's file",
    style=_NUMBERED,
    names=_numbered,
    dialects=always("keras"),
    order=_graph_order,
    geometry=_applications,
    as_trained=_AS_TRAINED,
    ignored=_EXTRAS,
)

KERASHUB3 = Publisher(
    name="kerashub3",
    title="KerasHub in Keras 3's file",
    style=_NUMBERED,
    names=_numbered,
    dialects=always("torch"),
    order=_graph_order,
    geometry=_hub,
    ignored=_EXTRAS,
)

KERASCV3 = Publisher(
    name="kerascv3",
    title="KerasCV's backbone in Keras 3's file",
    style=_NUMBERED,
    names=_numbered,
    dialects=_headless_cv,
    order=_graph_order,
    geometry=_cv,
    ignored=_EXTRAS,
)

QUBVEL = Publisher(
    name="qubvel",
    title="qubvel's classification_models",
    style=TENSORFLOW,
    names=symbol_names,
    dialects=always("symbol"),
    geometry=symbol_geometry,
    aliases=_LEGACY,
    ignored=_EXTRAS,
)
