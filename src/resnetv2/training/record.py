"""What a finished run says of itself: its settings, its environment, what was found in its data, its log, its speed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.config import ARCHITECTURES, ResNetV2Config
from resnetv2.data.splits import SPLITS
from resnetv2.training.plan import say_seconds
from resnetv2.training.plots import parse_line, read_history
from resnetv2.weights.modelfile import Header

_LEAKS = ("leak", "leak_near", "parted")


@dataclass(frozen=True)
class Record:
    """What a run has written of itself: settings, environment, findings on its data, its log, and its speed."""

    out: Path
    data: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    check: Mapping[str, Any]
    history: Mapping[str, np.ndarray]
    speed: Sequence[Mapping[str, Any]]

    @property
    def model(self) -> Path:
        """The model file that the report is about."""
        return self.out / "best.safetensors"

    @property
    def data_name(self) -> str:
        """The data in a word."""
        return Path(self.data).stem or self.data

    @property
    def leaks(self) -> list[Mapping[str, Any]]:
        """Findings of pictures that are in several splits."""
        return [finding for finding in self.check["findings"] if finding["kind"] in _LEAKS]


def read_record(out: Path, data: str) -> Record:
    """Read what a run has written of itself.

    Raises:
        OSError: a file of it is gone.
        DataError: the log is.
    """
    config, environment, check = (
        json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "environment", "check")
    )
    lines = (out / "speed.jsonl").read_text(encoding="utf-8").splitlines()
    return Record(
        out,
        data,
        config,
        environment,
        check,
        read_history(out / "metrics.jsonl"),
        [line for line in map(parse_line, lines) if line],
    )


def training_facts(record: Record, header: Header) -> list[tuple[str, str]]:
    """Return the settings that tell most of a run, as pairs of words."""
    config = record.config
    counts = header.provenance["data"]["pictures"]
    solved = config["recipe"] == "probe"
    facts = [
        ("recipe", config["recipe"]),
        ("starting weights", config["weights"] or "none: random"),
        ("network", name_architecture(header.architecture)),
        ("pictures", ", ".join(f"{n:,} {split}" for split in SPLITS if (n := counts[split]))),
        ("side of a picture", f"{config['image_size']} pixels"),
    ]
    if solved:
        facts.append(("head", "solved for by cross-validation, on features that were computed once"))
    else:
        optimizer = f"{config['optimizer']}, peak rate {config['lr']:g}, {config['schedule']}, "
        facts += [
            ("length", f"{config['epochs']} epochs in batches of {config['batch_size']}"),
            ("optimizer", f"{optimizer}weight decay {config['weight_decay']:g}"),
            ("loss", _say_loss(config)),
        ]
    return [*facts, ("views", _say_views(config)), ("seed", str(config["seed"]))]


def environment_facts(record: Record) -> list[tuple[str, str]]:
    """Return where a run took place and how fast it was, as pairs of words."""
    facts = [(key, str(value)) for key, value in record.environment.items() if value is not None and key != "data"]
    rates = [line["images_per_s"] for line in record.speed]
    if rates:
        seconds = sum(line["waited_s"] + line["computed_s"] for line in record.speed)
        limits = [line["limit"] for line in record.speed]
        slow = max(set(limits), key=limits.count)
        facts.append(("pictures a second", f"{np.median(rates):,.0f} in training, the median epoch; limit: the {slow}"))
        facts.append(("time in training steps", say_seconds(seconds)))
    return facts


def _say_loss(config: Mapping[str, Any]) -> str:
    smoothing = f", label smoothing {config['label_smoothing']:g}" if config["label_smoothing"] else ""
    weights = f", classes weighted ({config['class_weights']})" if config["class_weights"] != "none" else ""
    return f"{config['loss']}{smoothing}{weights}"


def _say_views(config: Mapping[str, Any]) -> str:
    """Say how pictures are varied in training."""
    words = [f"mirrored with probability {config['hflip']:g}"] if config["hflip"] else ["not mirrored"]
    low, high = config["crop_scale"]
    words.append(f"crops of {low:.0%} – {high:.0%} of the area")
    words += [config["auto_augment"]] if config["auto_augment"] != "none" else []
    words += [
        f"{key.replace('_', ' ')} {config[key]:g}" for key in ("mixup", "cutmix", "random_erasing") if config[key]
    ]
    if config["recipe"] in ("probe", "lp-ft") and config["views"] == 1:
        return "each picture as it is"
    return ", ".join(words)


def say_setting(value: Any) -> str:
    """Return a setting as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def name_architecture(config: ResNetV2Config) -> str:
    """Return the key of ARCHITECTURES that a network is of, the one that says most of it."""
    fitting = [
        (len(fields), name)
        for name, fields in ARCHITECTURES.items()
        if all(getattr(config, key) == value for key, value in fields.items())
    ]
    return max(fitting)[1] if fitting else "ResNet-v2"
