"""What a training run is: one frozen dataclass of plain values. Standard library only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from resnetv2.config import ResNetV2Config, architecture
from resnetv2.errors import ConfigError, unknown
from resnetv2.plain import Plain

_FIELDS = frozenset(f.name for f in fields(ResNetV2Config))
GLYPH_LENGTH = 2  # class names this short are taken for characters, which mirrors and tight crops turn into others


class Rule(NamedTuple):
    """What a setting must be: in words, and as a test of any value whatever its type."""

    what: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max  # neither infinite nor NaN


def _whole(low: int) -> Rule:
    return Rule(f"a whole number of at least {low}", lambda v: _is_whole(v) and low <= v < 2**63)


def _pair(top: float, example: str) -> Rule:
    def holds(value: Any) -> bool:
        two = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
        return two and 0 < value[0] <= value[1] <= top

    return Rule(f"two rising numbers above 0 and at most {top:g}, such as {example}", holds)


def _optional(rule: Rule) -> Rule:
    return Rule(rule.what, lambda v: v is None or rule.holds(v))


_name = Rule("a name", lambda v: isinstance(v, str))
_yes_no = Rule("true or false", lambda v: isinstance(v, bool))
_probability = Rule("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
_share = Rule("a number of at least 0 and below 1", lambda v: _is_number(v) and 0 <= v < 1)
_amount = Rule("a number of at least 0", lambda v: _is_number(v) and v >= 0)

RULES: dict[str, Rule] = {
    "arch": _name,
    "dialect": _name,
    "model": Rule("architecture fields, such as model.stem=3x3", lambda v: isinstance(v, Mapping)),
    "image_size": _whole(32),
    "epochs": _whole(1),
    "batch_size": _whole(2),
    "lr": _optional(Rule("a number above 0", lambda v: _is_number(v) and v > 0)),
    "momentum": _share,
    "weight_decay": _amount,
    "warmup_epochs": _amount,
    "label_smoothing": _share,
    "ema_decay": _share,
    "ema_every": _whole(1),
    "drop_rate": _share,
    "drop_path_rate": _share,
    "zero_init_last": _yes_no,
    "memory": Rule("'saved' or 'recompute'", lambda v: v in ("saved", "recompute")),
    "hflip": _optional(_probability),
    "crop_scale": _optional(_pair(4, "0.5,1")),
    "crop_ratio": _pair(100, "0.75,1.33"),
    "auto_augment": Rule("'none', 'trivial' or 'rand'", lambda v: v in ("none", "trivial", "rand")),
    "random_erasing": _probability,
    "mixup": _amount,
    "cutmix": _amount,
    "dct_scaling": _yes_no,
    "seed": _whole(0),
    "device": _name,
    "workers": _optional(_whole(1)),
    "workers_in": Rule("'threads' or 'processes'", lambda v: v in ("threads", "processes")),
    "cache_mb": _whole(0),
    "save_minutes": _amount,
    "class_weights": Rule("'none' or 'balanced'", lambda v: v in ("none", "balanced")),
    "sampling": Rule("'natural' or 'balanced'", lambda v: v in ("natural", "balanced")),
    "group_by": _optional(Rule("a column or a regular expression", lambda v: isinstance(v, str) and v != "")),
    "on_bad_image": Rule("'error' or 'skip'", lambda v: v in ("error", "skip")),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Plain):
    """Every setting of a run; ``RUN/config.json`` holds one, resolved.

    The recipe is SGD with Nesterov momentum, linear warm-up and cosine decay, label smoothing, no decay on norms and
    biases, and an exponential moving average of the weights: the common ground of the published ResNet recipes.

    Raises:
        ConfigError: listing every value that is out of range.
    """

    noun = "setting"

    arch: str = "resnet50v2"  # a key of ARCHITECTURES
    dialect: str = "torch"  # a key of DIALECTS
    model: Mapping[str, Any] = field(default_factory=dict)  # fields of ResNetV2Config: --set model.stem=3x3
    image_size: int = 224  # side in pixels of the square that the network sees
    epochs: int = 30
    batch_size: int = 32
    lr: float | None = None  # peak rate; None: 0.2 for a batch of 256, in proportion to the batch
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on convolutions and the head alone
    warmup_epochs: float = 2.0  # at most a quarter of the run
    label_smoothing: float = 0.1
    ema_decay: float = 0.9999  # the newest steps count more at first: min(ema_decay, (1 + step) / (10 + step))
    ema_every: int = 8  # steps between two updates of the average
    drop_rate: float = 0.0  # dropout before the head
    drop_path_rate: float = 0.0  # stochastic depth
    zero_init_last: bool = False
    memory: str = "saved"  # "recompute": half the activation memory, the same bits, a little slower
    hflip: float | None = None  # probability of a mirror image; None: 0.5, but 0 for classes named like characters
    crop_scale: tuple[float, float] | None = None  # the random crop's share of the area; above 1 zooms out
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the random crop
    auto_augment: str = "none"  # "trivial": TrivialAugment, wide; "rand": RandAugment, two operations at 9 of 10
    random_erasing: float = 0.0  # probability that a patch of a picture is erased
    mixup: float = 0.0  # alpha of mixup's Beta distribution; 0: none
    cutmix: float = 0.0  # alpha of CutMix's; with both, each batch takes one of them by a fair coin
    dct_scaling: bool = True  # decode a JPEG 2, 4 or 8 times smaller where its crop keeps enough pixels
    seed: int = 0
    device: str = "auto"  # "auto" | "cpu" | "cuda" | "cuda:1" | "mps"
    workers: int | None = None  # how many decode; None: one for each processor, at most 8
    workers_in: str = "threads"  # "processes" decode training pictures in processes of their own, and keep none decoded
    cache_mb: int = 256  # memory (2^20 bytes) for small pictures kept decoded; the 50,000 of CIFAR-10 take 159
    save_minutes: float = 1.0  # between two checkpoints
    class_weights: str = "none"  # of the loss; "balanced": in inverse proportion to the class's training pictures
    sampling: str = "natural"  # "balanced": an epoch takes as many pictures as ever, equally many from each class
    group_by: str | None = None  # what the split keeps together: a column of the CSV, or an expression on the path
    on_bad_image: str = "error"  # "skip": train without the pictures that cannot be read

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule.what}, got {getattr(self, name)!r}"
            for name, rule in RULES.items()
            if not rule.holds(getattr(self, name))
        ]
        if self.class_weights == self.sampling == "balanced":
            problems.append(
                "class_weights and sampling are both 'balanced': rare classes would count twice; choose one"
            )
        if not {"arch", "dialect", "model"} & {problem.split()[0] for problem in problems}:
            try:
                self.architecture(num_classes=1)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr if self.lr is not None else 0.2 * self.batch_size / 256

    def architecture(self, num_classes: int) -> ResNetV2Config:
        """Return the network this run trains."""
        for key in self.model:
            if key not in _FIELDS:
                raise ConfigError(unknown(ResNetV2Config.noun, str(key), _FIELDS))
        fixed = sorted(set(self.model) & {"num_classes", "in_chans"})
        if fixed:
            raise ConfigError(f"model.{fixed[0]} is set by the data and cannot be chosen")
        return architecture(self.arch, self.dialect, num_classes=num_classes, **self.model)

    def fitted(self, classes: Sequence[str]) -> Self:
        """Return the config with the rate and the augmentation that fits the classes filled in where none was chosen.

        Photographs are mirrored and cropped hard. Characters ("7", "b", "AB") are not: a mirrored 2 is no 2.
        """
        glyphs = all(len(name) <= GLYPH_LENGTH for name in classes)
        hflip = self.hflip if self.hflip is not None else (0.0 if glyphs else 0.5)
        scale = self.crop_scale if self.crop_scale is not None else ((0.7, 1.3) if glyphs else (0.35, 1.0))
        return replace(self, lr=self.peak_lr, hflip=hflip, crop_scale=scale)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into settings; ``model.key=value`` collects into "model".

    Values are JSON where they parse as JSON, a tuple where they hold a comma, and text otherwise.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set takes key=value, got {pair!r}")
        value = tuple(map(_value, text.split(","))) if "," in text and text[0] not in '["{' else _value(text)
        if key.startswith("model."):
            model = settings.setdefault("model", {})
            if not isinstance(model, dict):
                raise ConfigError(f"--set {pair} comes after a model that is no mapping: {model!r}")
            model[key.removeprefix("model.")] = value
        else:
            settings[key] = value
    return settings


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # also: a number too long, brackets too deep
        return float(text) if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?", text) else text
    return tuple(value) if isinstance(value, list) else value
