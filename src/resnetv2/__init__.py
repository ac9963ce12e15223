"""The ResNet50-v2 (pre-activation ResNet) one can trust from a published checkpoint to production.

Public names are imported when they are first used, so that ``import resnetv2`` stays fast and needs no torch.
Modules are nouns and functions are verbs, so that no name is both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Classifier": "inference",
    "ConfigError": "errors",
    "ConvertError": "errors",
    "DataError": "errors",
    "DownloadError": "errors",
    "Embedded": "embedding.run",
    "Embedding": "inference",
    "Error": "errors",
    "Interrupted": "errors",
    "Match": "embedding.lookup",
    "MissingExtra": "errors",
    "ModelFileError": "errors",
    "Prediction": "inference",
    "Preprocessing": "preprocess",
    "Report": "data.check",
    "ResNetV2": "model",
    "ResNetV2Classifier": "estimators",
    "ResNetV2Config": "config",
    "ResNetV2Features": "estimators",
    "TrainConfig": "recipes",
    "calibrate": "evaluation.fitting",
    "check": "diagnosis",
    "compare": "evaluation.comparison",
    "convert": "published",
    "create_model": "creation",
    "demo": "digits",
    "embed": "embedding.run",
    "evaluate": "evaluation.run",
    "explain": "explanation",
    "export": "exporting",
    "fetch": "published",
    "find_lr": "training.find_lr",
    "from_pretrained": "repository.folder",
    "info": "inference",
    "list_models": "weights.catalogue",
    "load": "inference",
    "pack": "data.packing",
    "predict": "inference",
    "push_to_hub": "repository.folder",
    "save_pretrained": "repository.folder",
    "search": "embedding.lookup",
    "train": "training.run",
    "verify": "inference",
}

__all__ = [
    "Classifier",
    "ConfigError",
    "ConvertError",
    "DataError",
    "DownloadError",
    "Embedded",
    "Embedding",
    "Error",
    "Interrupted",
    "Match",
    "MissingExtra",
    "ModelFileError",
    "Prediction",
    "Preprocessing",
    "Report",
    "ResNetV2",
    "ResNetV2Classifier",
    "ResNetV2Config",
    "ResNetV2Features",
    "TrainConfig",
    "__version__",
    "calibrate",
    "check",
    "compare",
    "convert",
    "create_model",
    "demo",
    "embed",
    "evaluate",
    "explain",
    "export",
    "fetch",
    "find_lr",
    "from_pretrained",
    "info",
    "list_models",
    "load",
    "pack",
    "predict",
    "push_to_hub",
    "save_pretrained",
    "search",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from resnetv2.config import ResNetV2Config
    from resnetv2.creation import create_model
    from resnetv2.data.check import Report
    from resnetv2.data.packing import pack
    from resnetv2.diagnosis import check
    from resnetv2.digits import demo
    from resnetv2.embedding.lookup import Match, search
    from resnetv2.embedding.run import Embedded, embed
    from resnetv2.errors import (
        ConfigError,
        ConvertError,
        DataError,
        DownloadError,
        Error,
        Interrupted,
        MissingExtra,
        ModelFileError,
    )
    from resnetv2.estimators import ResNetV2Classifier, ResNetV2Features
    from resnetv2.evaluation.comparison import compare
    from resnetv2.evaluation.fitting import calibrate
    from resnetv2.evaluation.run import evaluate
    from resnetv2.explanation import explain
    from resnetv2.exporting import export
    from resnetv2.inference import Classifier, Embedding, Prediction, info, load, predict, verify
    from resnetv2.model import ResNetV2
    from resnetv2.preprocess import Preprocessing
    from resnetv2.published import convert, fetch
    from resnetv2.recipes import TrainConfig
    from resnetv2.repository.folder import from_pretrained, push_to_hub, save_pretrained
    from resnetv2.training.find_lr import find_lr
    from resnetv2.training.run import train
    from resnetv2.weights.catalogue import list_models


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("torch", "sklearn"):
            raise
        from resnetv2.errors import MissingExtra

        raise MissingExtra(f"resnetv2.{name}", "train") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
