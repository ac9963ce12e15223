"""A published checkpoint file, whole: whose it is, its network, its weights, its pictures and where it is from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.location import files_of, locate
from resnetv2.conversion.publisher import Geometry
from resnetv2.conversion.readers import is_checkpoint, read_tensors
from resnetv2.conversion.recognition import Candidate, choose
from resnetv2.conversion.rules import read
from resnetv2.errors import ConvertError, unknown
from resnetv2.preprocess import Preprocessing

VARIANTS = ("as-shipped", "as-trained")
_WITH_BACKGROUND = 1001  # ImageNet's classes and, before them, what belongs to none


@dataclass(frozen=True)
class Checkpoint:
    """What a published checkpoint is, in our words."""

    config: ResNetV2Config
    weights: dict[str, np.ndarray]  # by their names in ``ResNetV2(config)``
    preprocessing: Preprocessing
    provenance: dict[str, Any]  # plain values, fit for a model file's header
    classes: tuple[str, ...] = ()  # by index of the logits, where the file names them
    background: bool = False  # class 0 is what belongs to no class

    def without_head(self) -> Self:
        """Return the network whose answers are the pooled features."""
        weights = {name: value for name, value in self.weights.items() if not name.startswith("head.")}
        config = replace(self.config, num_classes=0)
        return replace(self, config=config, weights=weights, classes=(), background=False)

    def without_background(self) -> Self:
        """Return the network without class 0, if that is the background; else the network itself."""
        if not self.background:
            return self
        head = {name: value[1:] for name, value in self.weights.items() if name.startswith("head.")}
        config = replace(self.config, num_classes=self.config.num_classes - 1)
        return replace(self, config=config, weights={**self.weights, **head}, background=False)


def read_checkpoint(path: Path | str, source: str = "auto", variant: str = "as-shipped") -> Checkpoint:
    """Read a publisher's checkpoint, recognised by its content: docs/convert.md lists the formats.

    The network is recognised by the names and shapes of the tensors, and every tensor must have its place in it.
    float16 and bfloat16 become float32, which holds them exactly; float64 stays.

    ``preprocessing`` is the publisher's where it can be said exactly or nearly; provenance["preprocessing"] says what
    is assumed or differs, and is empty where nothing is.

    Args:
        path: the file; a folder with exactly one checkpoint in or below it, such as a SavedModel or KerasHub's preset;
            the prefix of a TensorFlow checkpoint; or an archive that holds exactly one. Read only.
            provenance["sha256"] is of its bytes: an index before its data, a backbone before its head.
        source: "auto", a publisher such as "keras", or with its dialect where files do not tell two networks apart:
            "pytorchcv:pytorchcv" (stride in the first convolution) or "pytorchcv:pytorchcv-b".
        variant: "as-shipped": the graph of the publisher's code. "as-trained": the graph and the preprocessing that
            the weights were trained with, where those are others (Keras Applications, TF-Slim).

    Raises:
        ConvertError: missing, damaged, hostile, not recognised, ambiguous, not whole, or without such a variant.
        MissingExtra: HDF5 needs h5py, PyTorch's pickles need torch.
    """
    if variant not in VARIANTS:
        raise ConvertError(unknown("variant", variant, VARIANTS))
    path = locate(Path(path), is_checkpoint)
    kind, tensors = read_tensors(path)
    try:
        found = choose(tensors, source)
        config, geometry = _variant(found, variant)
        weights, extras = found.publisher.tidy(tensors)
        ours = read(weights, found.publisher.rules(config), config)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    provenance = {
        "source": found.source,
        "publisher": found.publisher.title,
        "dialect": found.dialect,
        "variant": variant,
        "file": path.name,
        "format": kind,
        "sha256": digest(path),
        "reason": found.reason,
        "left_out": extras,
        "preprocessing": geometry.caveat,
    }
    background = found.publisher.background and config.num_classes == _WITH_BACKGROUND
    return Checkpoint(config, ours, geometry.preprocessing, provenance, background=background)


def digest(path: Path) -> str:
    """Return the SHA-256 of a located checkpoint's bytes, those of an index before those of its data, as hex digits."""
    whole = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: whole)
    return whole.hexdigest()


def _variant(found: Candidate, variant: str) -> tuple[ResNetV2Config, Geometry]:
    if variant == "as-shipped":
        return found.config, found.publisher.geometry(found.config)
    if found.publisher.as_trained is None:
        raise ConvertError(
            f"{found.publisher.title} has no variant 'as-trained': what it ships is what it trained (choose as-shipped)"
        )
    fields, geometry = found.publisher.as_trained
    return replace(found.config, **fields), geometry
