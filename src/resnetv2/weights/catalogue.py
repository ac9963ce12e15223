"""The catalogue of published pre-activation checkpoints. Standard library only.

A name is ``architecture.source_data``: "resnet50v2.keras_in1k". The architecture has ours, with the width as "x3" where
it is not 1; the source is the publisher, and what tells several of its files apart; timm's own trainings keep timm's
tags ("a1h_in1k"), and timm's copies of BiT begin with "timm_". The data the classes come from are the end: in1k,
in21k, cifar10, cifar100, svhn; "in21k_ft_in1k" was trained on the first and fine-tuned on the second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from resnetv2.config import ARCHITECTURES, ResNetV2Config, architecture
from resnetv2.errors import ConfigError, unknown
from resnetv2.weights.location import Location

if TYPE_CHECKING:
    from resnetv2.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Result:
    """An accuracy somebody published, in percent of the data's held-out pictures; None: not stated."""

    image_size: int
    resize: int = 0  # of the shortest side before the crop; 0 where it is not stated
    top1: float | None = None
    top5: float | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one published checkpoint: where it is, what network it fills, and what it was measured to do."""

    name: str
    source: str  # of ``conversion.read_checkpoint``: "pytorchcv:pytorchcv-b"
    dialect: str  # a key of ``DIALECTS``
    config: ResNetV2Config  # without the background class
    files: tuple[Location, ...]  # all of them are needed
    licence: str
    labels: str  # of ``labels.class_names``; "" for a network without a head
    pixels: Mapping[str, Any]  # the fields of ``Preprocessing`` that differ from its defaults
    results: tuple[Result, ...] = ()
    note: str = ""
    variant: str = "as-shipped"  # of ``conversion.read_checkpoint``

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures were prepared for the published evaluation, as far as it can be said. Imports NumPy."""
        from resnetv2.preprocess import Preprocessing

        return Preprocessing.from_dict(self.pixels)

    @property
    def image_size(self) -> int:
        """Side of the network's input in pixels at the published evaluation."""
        return int(self.pixels.get("image_size", 224))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready plain values."""
        parts = {
            "config": self.config.to_dict(),
            "files": [location.to_dict() for location in self.files],
            "pixels": dict(self.pixels),
            "results": [dict(vars(result)) for result in self.results],
        }
        return {**vars(self), **parts}


def cards(pattern: str = "*") -> list[Card]:
    """Return the cards whose names match a shell pattern such as "resnet50v2.*", in the catalogue's order."""
    return [found for name, found in _catalogue().items() if fnmatchcase(name, pattern)]


def card(name: str) -> Card:
    """Return the card of published weights such as "resnet50v2.a1h_in1k".

    Raises:
        ConfigError: no such weights, with the nearest name.
    """
    if name not in _catalogue():
        raise ConfigError(unknown("published weights", name, _catalogue()))
    return _catalogue()[name]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Return the names that match a shell pattern such as "*50*": of architectures, or of published weights.

    Args:
        pattern: matched against whole names.
        pretrained: list published weights ("resnet50v2.a1h_in1k"), not architectures ("resnet50v2").
    """
    if pretrained:
        return [found.name for found in cards(pattern)]
    return [name for name in ARCHITECTURES if fnmatchcase(name, pattern)]


@cache
def _catalogue() -> dict[str, Card]:
    entries = json.loads(files("resnetv2.weights").joinpath("cards.json").read_text(encoding="utf-8"))
    return {entry["name"]: _card(entry) for entry in entries}


def _card(entry: dict[str, Any]) -> Card:
    known = dict(entry)
    depth = known.pop("architecture", known["name"].partition(".")[0])
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in known.pop("changes", {}).items()}
    return Card(
        config=architecture(depth, known["dialect"], **changes),
        files=tuple(Location.from_dict(location) for location in known.pop("files")),
        pixels=known.pop("preprocessing"),
        results=tuple(Result(**result) for result in known.pop("results")),
        **known,
    )
