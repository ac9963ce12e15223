"""transformers' ``Bit``: its ``config.json`` and ``preprocessor_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnetv2.errors import ConvertError
from resnetv2.preprocess import Preprocessing
from resnetv2.repository.limits import check_pictures
from resnetv2.weights.modelfile import Header

_RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
TASKS = {problem: task for task, problem in PROBLEMS.items()}


def write_config(header: Header) -> dict[str, Any]:
    """Return the ``config.json`` of ``BitForImageClassification``.

    Raises:
        ConvertError: the network has no head.
    """
    config = header.architecture
    if not header.classes:
        raise ConvertError("transformers' BitForImageClassification has a head, and this network has none")
    return {
        "architectures": ["BitForImageClassification"],
        "model_type": "bit",
        "num_channels": config.in_chans,
        "embedding_size": config.stem_channels,
        "hidden_sizes": [config.stage_channels(stage) for stage in range(len(config.depths))],
        "depths": list(config.depths),
        "layer_type": "preactivation",
        "hidden_act": "relu",
        "global_padding": None,
        "num_groups": 32,
        "drop_path_rate": 0.0,
        "embedding_dynamic_padding": False,
        "output_stride": 32,
        "width_factor": 1,
        "problem_type": PROBLEMS[header.task],
        "id2label": {str(number): name for number, name in enumerate(header.classes)},
        "label2id": {name: number for number, name in enumerate(header.classes)},
        "dtype": "float32",
    }


def write_preprocessor(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of ``BitImageProcessor``.

    Raises:
        ConvertError: it cannot prepare pictures like this.
    """
    check_pictures("transformers", preprocessing)
    side, size = preprocessing.resize, preprocessing.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side} if preprocessing.fit == "squash" else {"shortest_edge": side},
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in preprocessing.mean],
        "image_std": [value / 255 for value in preprocessing.std],
    }


def read_preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """Return how a ``preprocessor_config.json`` prepares pictures.

    Raises:
        KeyError, TypeError, ValueError: it does not say so, or it is what we do not do.
    """
    steps = ("do_resize", "do_rescale", "do_normalize")
    missing = [step for step in steps if not values.get(step, True)]
    side, crop = values["size"], values["crop_size"] if values.get("do_center_crop", True) else values["size"]
    sizes = [crop.get("height"), crop.get("width")]
    sides = [side["shortest_edge"]] if "shortest_edge" in side else [side["height"], side["width"]]
    if missing or len(set(sizes)) > 1 or len(set(sides)) > 1 or abs(255 * values["rescale_factor"] - 1) > 1e-6:
        raise ValueError(f"size {side}, crop_size {crop}, without {', '.join(missing) or 'nothing'} is not supported")
    return Preprocessing(
        image_size=sizes[0],
        resize=sides[0],
        fit="shortest" if "shortest_edge" in side else "squash",
        interpolation={number: name for name, number in _RESAMPLE.items()}[values["resample"]],
        mean=tuple(255 * value for value in values["image_mean"]),
        std=tuple(255 * value for value in values["image_std"]),
        crop_offset="floor",
    )
