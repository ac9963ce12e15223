"""Weights back into a publisher's own file, from the tables that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.formats.hdf5 import write_keras, write_legacy_keras
from resnetv2.conversion.formats.keras_graph import functional_config
from resnetv2.conversion.publisher import Publisher
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import write
from resnetv2.conversion.zoo import write_zoo
from resnetv2.errors import ConfigError, ConvertError, unknown
from resnetv2.files import replace_file

_TINY = 1e-8  # timm and Hugging Face standardise BiT's kernels with this, BiT with 1e-10: 2e-6 of the logits


def write_checkpoint(path: Path | str, config: ResNetV2Config, weights: Mapping[str, np.ndarray], target: str) -> None:
    """Write weights as a publisher's own file, so that the publisher's own code loads it. Atomic.

    Args:
        path: the file; an old one of this name is replaced.
        config: the network that the weights are for; it must be one the publisher has.
        weights: float arrays by the names in ``ResNetV2(config)``, whole.
        target: "timm" and "huggingface" (.safetensors), "bit" (.npz), "keras" (Keras 2's .h5, weights alone), "keras3"
            (.keras: a whole model, for ``keras.saving.load_model``; it gives logits, pictures may have any height and
            width) or "onnx-zoo" (.onnx).

    Raises:
        ConvertError: the publisher has no such network, or the weights are not whole.
        MissingExtra: "keras" and "keras3" need h5py, "onnx-zoo" needs onnx.
        Error: the file system refused.
    """
    if target not in WRITERS:
        raise ConvertError(unknown("target", target, WRITERS))
    publisher = PUBLISHERS[target]
    theirs = write(weights, publisher.rules(config), config)
    _check_graph(publisher, config, theirs)
    with replace_file(Path(path)) as temporary:
        WRITERS[target].write(temporary, theirs)


def _check_graph(publisher: Publisher, config: ResNetV2Config, theirs: Mapping[str, np.ndarray]) -> None:
    """Refuse weights whose names fit and whose network differs: they would load there and answer something else."""
    try:
        configs = publisher.configs(theirs)
    except ConfigError as error:  # what it would be there cannot be
        raise ConvertError(f"{publisher.title} has no such network: {error}") from error
    known = [graph.to_dict() for graph in map(_graph, configs.values())]
    mine = _graph(config).to_dict()
    if mine not in known:
        other = known[0] if known else {}
        differing = [f"{k} is {v!r} instead of {other.get(k)!r}" for k, v in mine.items() if v != other.get(k)]
        raise ConvertError(f"{publisher.title} has no such network: {', '.join(differing)}")


def _graph(config: ResNetV2Config) -> ResNetV2Config:
    eps = _TINY if config.weight_std_eps <= _TINY else config.weight_std_eps
    return replace(config, norm_momentum=0.1, weight_std_eps=eps if config.weight_std else _TINY)


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    try:
        save_file(dict(tensors), path, {"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error


def _write_npz(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **tensors)


def _write_keras3(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    (config,) = PUBLISHERS["keras3"].configs(tensors).values()
    write_keras(path, functional_config(config), tensors)


class Writer(NamedTuple):
    """How a publisher's file is written, and what its name ends in."""

    ending: str
    write: Callable[[Path, Mapping[str, np.ndarray]], None]


WRITERS = {
    "timm": Writer(".safetensors", _write_safetensors),
    "huggingface": Writer(".safetensors", _write_safetensors),
    "bit": Writer(".npz", _write_npz),
    "keras": Writer(".h5", write_legacy_keras),
    "keras3": Writer(".keras", _write_keras3),
    "onnx-zoo": Writer(".onnx", write_zoo),
}
