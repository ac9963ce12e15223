"""Whose checkpoint this is: the publishers and networks that its tensors fill exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.huggingface import HUGGINGFACE
from resnetv2.conversion.keras import KERAS, KERAS3, KERASCV, KERASCV3, KERASHUB, KERASHUB3, QUBVEL
from resnetv2.conversion.mxnet import GLUON, ONNX_ZOO, SYMBOL
from resnetv2.conversion.publisher import Publisher
from resnetv2.conversion.pytorchcv import PYTORCHCV
from resnetv2.conversion.rules import misfits, report
from resnetv2.conversion.tensorflow import BIT, OFFICIAL, SLIM
from resnetv2.conversion.timm import TIMM
from resnetv2.conversion.torch7 import TORCH7
from resnetv2.errors import ConfigError, ConvertError, unknown
from resnetv2.shapes import tensor_shapes

PUBLISHERS = {
    publisher.name: publisher
    for publisher in (
        TIMM,
        KERAS,
        KERAS3,
        KERASHUB,
        KERASHUB3,
        KERASCV,
        KERASCV3,
        QUBVEL,
        SLIM,
        OFFICIAL,
        BIT,
        HUGGINGFACE,
        GLUON,
        ONNX_ZOO,
        SYMBOL,
        PYTORCHCV,
        TORCH7,
    )
}


class Candidate(NamedTuple):
    """A network that a checkpoint fills exactly, and why."""

    source: str  # "keras", or "pytorchcv:pytorchcv-b" where the publisher has several graphs for these tensors
    publisher: Publisher
    dialect: str  # a key of ``DIALECTS``
    config: ResNetV2Config
    reason: str


def recognise(tensors: Mapping[str, np.ndarray]) -> list[Candidate]:
    """Return every published network that ``tensors`` fill exactly, judging by names and shapes alone.

    None is an empty list. Several mean that files do not tell these networks apart: pytorchcv's "preresnet50" and
    "preresnet50b" differ in where they stride and in nothing that is stored.
    """
    return [candidate for candidate, problems in _compare(tensors) if not problems]


def choose(tensors: Mapping[str, np.ndarray], source: str = "auto") -> Candidate:
    """Return the one network that ``tensors`` fill, among those of ``source``.

    Args:
        tensors: a checkpoint's tensors by the publisher's names.
        source: "auto", a publisher such as "timm", or publisher and dialect such as "pytorchcv:pytorchcv-b".

    Raises:
        ConvertError: none fits (with what keeps the nearest one from it), several do, or ``source`` is unknown.
    """
    publisher = source.partition(":")[0]
    if publisher != "auto" and publisher not in PUBLISHERS:
        raise ConvertError(unknown("source", publisher, [*PUBLISHERS, "auto"]))
    compared = [found for found in _compare(tensors) if source in ("auto", found[0].publisher.name, found[0].source)]
    fitting = [candidate for candidate, problems in compared if not problems]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choices = "; ".join(f"{c.source!r} ({c.reason})" for c in fitting)
        raise ConvertError(f"the tensors do not tell these networks apart, say which as source: {choices}")
    if not compared:
        names = ", ".join(sorted(tensors)[:6])
        raise ConvertError(f"no ResNet-v2 of {_whose(source)}; it has {len(tensors)} tensors: {names} …")
    nearest, problems = min(compared, key=lambda found: sum(map(len, found[1].values())))
    raise ConvertError(
        f"not whole: the nearest is {nearest.publisher.title} with depths {nearest.config.depths}, but there are "
        f"tensors that do not fit\n{report(problems)}"
    )


def _whose(source: str) -> str:
    return "a known publisher" if source == "auto" else repr(source)


def _compare(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[Candidate, dict[str, list[str]]]]:
    """Yield the networks that have at least their stem in ``tensors``, each with what does not fit."""
    for publisher in PUBLISHERS.values():
        try:
            weights, _ = publisher.tidy(tensors)
            configs = publisher.configs(weights)
        except (ConvertError, ConfigError):  # names that clash once prefixes are off, or sizes that no network has
            continue
        for dialect, config in configs.items():
            problems = misfits(weights, publisher.rules(config), tensor_shapes(config))
            source = publisher.name if len(configs) == 1 else f"{publisher.name}:{dialect}"
            yield (
                Candidate(source, publisher, dialect, config, _reason(publisher, config)),
                {kind: names for kind, names in problems.items() if names},
            )


def _reason(publisher: Publisher, config: ResNetV2Config) -> str:
    depths = ", ".join(map(str, config.depths))
    classes = f"{config.num_classes} classes" if config.num_classes else "no head"
    return (
        f"every tensor has the name and shape of {publisher.title}; {config.block} units {depths}, "
        f"{config.stem} stem of {config.stem_channels} channels, {config.norm} norm, {classes}"
    )
