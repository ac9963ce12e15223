"""The model file: one ``.safetensors`` file that says what it is and can prove it.

Its JSON header holds the schema version, task, architecture, preprocessing, classes, provenance, metrics and, once it
is calibrated, the calibration. Its tensors are the weights by their names in ``ResNetV2``, and the golden samples:
``golden.picture.0`` … (the encoded bytes of small pictures) and ``golden.logits`` (what the network answers to them),
so that decoding, resizing and network can all be replayed; with a calibration, also ``likeness.means`` … of the
training pictures. A SHA-256 covers all of it. Works without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.preprocess import Preprocessing
from resnetv2.tasks import check_task
from resnetv2.weights.calibration import Calibration
from resnetv2.weights.likeness import NAMES, TrainingFeatures
from resnetv2.weights.sealed import read_seal, read_sealed, write_sealed

SCHEMA_VERSION = 3
KIND = "model"
_LOGITS, _PICTURE = "golden.logits", "golden.picture."
_FIELDS: dict[str, type] = {
    "kind": str,
    "schema_version": int,
    "task": str,
    "architecture": dict,
    "preprocessing": dict,
    "classes": list,
    "provenance": dict,
    "metrics": dict,
    "calibration": dict,
}
_ADDED: dict[int, dict[str, Any]] = {
    2: {"task": "classification"},
    3: {"calibration": {}},
}  # fields that a version brought, with what they are in older files


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says of itself, before any weight is read."""

    architecture: ResNetV2Config
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # by index of the logits; none in a network without a head, one where it measures
    task: str = "classification"  # of TASKS: what the logits mean
    provenance: Mapping[str, Any] = field(default_factory=dict)  # source, licence, recipe, data
    metrics: Mapping[str, Any] = field(default_factory=dict)  # measured figures, each with its n
    calibration: Calibration | None = None  # of these weights

    def __post_init__(self) -> None:
        if self.architecture.in_chans != 3:
            raise ConfigError(f"a model file is for RGB pictures: in_chans must be 3, got {self.architecture.in_chans}")
        if len(self.classes) != self.architecture.num_classes:
            raise ConfigError(f"{len(self.classes)} class names for {self.architecture.num_classes} classes")
        check_task(self.task)
        if len(set(self.classes)) != len(self.classes):
            twice = [repr(name) for name, times in Counter(self.classes).items() if times > 1]
            raise ConfigError(f"class names must differ from each other: {', '.join(twice[:12])} more than once")
        if self.calibration is not None and (self.task != "classification" or len(self.classes) < 2):
            raise ConfigError("calibration is for networks that give one class of several")

    @property
    def num_outputs(self) -> int:
        """Numbers that the network answers with: logits, or pooled features without a head."""
        return self.architecture.num_classes or self.architecture.num_features

    def scale(self, logits: np.ndarray) -> np.ndarray:
        """Return logits divided by the temperature that they were calibrated with, if they were."""
        return logits if self.calibration is None else self.calibration.scale(logits)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON header."""
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "architecture": self.architecture.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "classes": list(self.classes),
            "provenance": dict(self.provenance),
            "metrics": dict(self.metrics),
            "calibration": self.calibration.to_dict() if self.calibration else {},
        }


@dataclass(frozen=True)
class Golden:
    """Pictures with the answers expected for them: k encoded files, and float32 logits (k, num_outputs)."""

    pictures: tuple[bytes, ...]
    logits: np.ndarray


@dataclass(frozen=True)
class ModelFile:
    """The whole content of a model file; weights by name.

    ``likeness`` is there if and only if the header has a calibration.
    """

    header: Header
    weights: Mapping[str, np.ndarray]
    golden: Golden
    likeness: TrainingFeatures | None = None


def write_model_file(path: Path, model: ModelFile) -> None:
    """Write a model file atomically.

    Raises:
        Error: the file system refused; ``path`` is as it was.
    """
    tensors = {**model.weights, **(model.likeness.to_tensors() if model.likeness else {})}
    for number, picture in enumerate(model.golden.pictures):
        tensors[f"{_PICTURE}{number}"] = np.frombuffer(picture, np.uint8)
    tensors[_LOGITS] = model.golden.logits.astype(np.float32)
    write_sealed(path, model.header.to_dict(), tensors)


def read_header(path: Path) -> Header:
    """Read what a model file says of itself. Fast: no weight is read, so the digest is not checked.

    Raises:
        ModelFileError: missing, truncated, corrupt, foreign, or written by a newer version.
    """
    return parse_header(path, read_seal(path))


def read_model_file(path: Path) -> ModelFile:
    """Read a model file and check its digest.

    Raises:
        ModelFileError: as ``read_header``, or the content does not match the digest.
    """
    read_header(path)  # a newer schema is said before a digest that it may compute otherwise
    values, tensors = read_sealed(path)
    header = parse_header(path, values)
    logits = tensors.pop(_LOGITS, np.zeros((0, header.num_outputs), np.float32))
    count = sum(name.startswith(_PICTURE) for name in tensors)
    pictures = [tensors.pop(f"{_PICTURE}{number}", None) for number in range(count)]
    if logits.shape != (count, header.num_outputs) or any(p is None for p in pictures):
        raise ModelFileError(f"{path} is damaged: its golden samples are not whole")
    kept = {name: tensors.pop(name) for name in NAMES if name in tensors}
    try:
        likeness = read_likeness(header, kept)
    except ConfigError as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
    return ModelFile(header, tensors, Golden(tuple(p.tobytes() for p in pictures if p is not None), logits), likeness)


def read_likeness(header: Header, tensors: Mapping[str, np.ndarray]) -> TrainingFeatures | None:
    """Return the features of the training pictures that belong to a calibration; None where there is none.

    Raises:
        ConfigError: they are not whole, or there is no calibration that they belong to.
    """
    if header.calibration is not None:
        return TrainingFeatures.from_tensors(tensors, header.architecture.num_features)
    if tensors:
        raise ConfigError("it holds features of training pictures, but no calibration")
    return None


def parse_header(path: Path, values: Mapping[str, Any]) -> Header:
    """Return the header that the JSON of the file at ``path`` holds.

    Raises:
        ModelFileError: of another kind, damaged, or written by a newer version.
    """
    if values.get("kind") != KIND:
        raise ModelFileError(f"{path} is no model file but a {values.get('kind')!r}; use best.safetensors of the run")
    try:
        version = values["schema_version"]
        if type(version) is int and version > SCHEMA_VERSION:
            raise _newer(path, version)
        added = [fields for since, fields in _ADDED.items() if type(version) is int and version < since]
        values = {**values, **{name: value for fields in added for name, value in fields.items()}}
        _check_fields(values)
        return Header(
            architecture=ResNetV2Config.from_dict(values["architecture"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            classes=tuple(values["classes"]),
            task=values["task"],
            provenance=values["provenance"],
            metrics=values["metrics"],
            calibration=Calibration.from_dict(values["calibration"]) if values["calibration"] else None,
        )
    except ModelFileError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {type(error).__name__}: {error}") from error


def _check_fields(values: Mapping[str, Any]) -> None:
    if set(values) != set(_FIELDS):
        raise TypeError(f"expected the fields {', '.join(_FIELDS)}, got {', '.join(values)}")
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind:
            raise TypeError(f"{name} must be of type {kind.__name__}, got {values[name]!r}")
    if values["schema_version"] < 1:
        raise ValueError(f"schema_version must be at least 1, got {values['schema_version']}")
    if not all(isinstance(name, str) for name in values["classes"]):
        raise TypeError(f"classes must be texts, got {values['classes']!r}")


def _newer(path: Path, version: int) -> ModelFileError:
    return ModelFileError(
        f"{path} has schema version {version} and this resnetv2 reads up to {SCHEMA_VERSION}: "
        "pip install --upgrade resnetv2"
    )
