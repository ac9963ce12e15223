"""A published checkpoint file, whole: whose it is, its network, its weights, its pictures and where it is from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.readers import files_of, read_tensors
from resnetv2.conversion.recognition import choose
from resnetv2.conversion.rules import read
from resnetv2.errors import ConvertError
from resnetv2.preprocess import Preprocessing


class Checkpoint(NamedTuple):
    """What a published checkpoint is, in our words."""

    config: ResNetV2Config
    weights: dict[str, np.ndarray]  # by their names in ``ResNetV2(config)``
    preprocessing: Preprocessing | None  # None where ``Preprocessing`` cannot say what the publisher does
    provenance: dict[str, Any]  # plain values, fit for a model file's header


def read_checkpoint(path: Path | str, source: str = "auto") -> Checkpoint:
    """Read a publisher's file: safetensors, npz, Keras's .h5 and .keras, ONNX, MXNet's .params, PyTorch's .pth; or
    KerasHub's preset, a folder.

    The network is recognised by the names and shapes of the tensors, and every tensor must have its place in it. A
    TensorFlow checkpoint is read from an npz of its variables by their names.

    ``preprocessing`` is the publisher's where it can be said exactly or nearly; provenance["preprocessing"] says what
    is assumed or differs, and is empty where nothing is. It is None for TF-Slim, which crops before it resizes.

    Args:
        path: the file, or the preset's folder; read only. provenance["sha256"] is of its bytes, the backbone's file
            before the head's.
        source: "auto", a publisher such as "keras", or with its dialect where files do not tell two networks apart:
            "pytorchcv:pytorchcv" (stride in the first convolution) or "pytorchcv:pytorchcv-b".

    Raises:
        ConvertError: missing, damaged, hostile, not recognised, ambiguous, or not whole.
        MissingExtra: HDF5 needs h5py, PyTorch's pickles need torch.
    """
    path = Path(path)
    kind, tensors = read_tensors(path)
    try:
        found = choose(tensors, source)
        weights, extras = found.publisher.tidy(tensors)
        ours = read(weights, found.publisher.rules(found.config), found.config)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    geometry = found.publisher.geometry(found.config)
    digest = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    provenance = {
        "source": found.source,
        "publisher": found.publisher.title,
        "dialect": found.dialect,
        "file": path.name,
        "format": kind,
        "sha256": digest.hexdigest(),
        "reason": found.reason,
        "left_out": extras,
        "preprocessing": geometry.caveat,
    }
    return Checkpoint(found.config, ours, geometry.preprocessing, provenance)
