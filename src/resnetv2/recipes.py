"""What a training run is: one frozen dataclass of plain values. Standard library only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from resnetv2.config import ResNetV2Config, architecture
from resnetv2.errors import ConfigError, unknown
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.plain import Plain
from resnetv2.tasks import TASKS

_FIELDS = frozenset(f.name for f in fields(ResNetV2Config))
STRATEGIES = ("scratch", "finetune", "probe", "lp-ft", "auto")
PRETRAINED = ("finetune", "probe", "lp-ft", "auto")  # those that start from weights
LOSSES = {"classification": "cross_entropy", "multilabel": "bce", "regression": "mse"}
GLYPH_LENGTH = 2  # class names this short are taken for characters, which mirrors and tight crops turn into others


class Rule(NamedTuple):
    """What a setting must be: in words, and as a test of any value whatever its type; and the words there are."""

    what: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


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


def _choice(*names: str) -> Rule:
    return Rule(f"one of {', '.join(map(repr, names))}", lambda v: v in names, names)


def _optional(rule: Rule) -> Rule:
    return Rule(rule.what, lambda v: v is None or rule.holds(v))


_name = Rule("a name", lambda v: isinstance(v, str))
_yes_no = Rule("true or false", lambda v: isinstance(v, bool))
_probability = Rule("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
_share = Rule("a number of at least 0 and below 1", lambda v: _is_number(v) and 0 <= v < 1)
_amount = Rule("a number of at least 0", lambda v: _is_number(v) and v >= 0)

RULES: dict[str, Rule] = {
    "recipe": _name,
    "weights": _optional(_name),
    "task": _optional(_choice(*TASKS)),
    "arch": _name,
    "dialect": _name,
    "model": Rule("architecture fields, such as model.stem=3x3", lambda v: isinstance(v, Mapping)),
    "image_size": _whole(32),
    "start_image_size": _optional(_whole(32)),
    "resize_ramp": Rule(
        "two rising shares of the run, such as 0.4,0.8",
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_is_number, v)) and 0 <= v[0] <= v[1] <= 1,
    ),
    "val_image_size": _optional(_whole(32)),
    "crop_pct": _optional(Rule("a number above 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1)),
    "epochs": _whole(1),
    "batch_size": _whole(2),
    "grad_accum_steps": _whole(1),
    "optimizer": _choice("sgd", "adamw", "lamb"),
    "lr": _optional(Rule("a number above 0", lambda v: _is_number(v) and v > 0)),
    "momentum": _share,
    "schedule": _choice("cosine", "linear", "step", "constant"),
    "warmup_epochs": _amount,
    "weight_decay": _amount,
    "layer_decay": Rule("a number above 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1),
    "l2_sp": _amount,
    "clip_grad": _optional(Rule("a number above 0", lambda v: _is_number(v) and v > 0)),
    "loss": _optional(_choice("cross_entropy", "bce", "mse", "smooth_l1")),
    "label_smoothing": _optional(_share),
    "ema_decay": _share,
    "ema_every": _whole(1),
    "drop_rate": _share,
    "drop_path_rate": _share,
    "zero_init_last": _yes_no,
    "bn": _choice("train", "frozen", "recalibrate"),
    "sync_bn": _yes_no,
    "memory": _choice("saved", "recompute"),
    "kernels": _choice("auto", "plain", "fused"),
    "amp": _choice("off", "bf16", "fp16"),
    "compile": _yes_no,
    "hflip": _optional(_probability),
    "crop_scale": _optional(_pair(4, "0.5,1")),
    "crop_ratio": _pair(100, "0.75,1.33"),
    "auto_augment": Rule(
        "'none', 'trivial', 'rand' or 'rand-m7' (of 10)",
        lambda v: isinstance(v, str) and re.fullmatch("none|trivial|rand(-m([0-9]|10))?", v) is not None,
    ),
    "random_erasing": _probability,
    "mixup": _amount,
    "cutmix": _amount,
    "dct_scaling": _yes_no,
    "views": _whole(1),
    "features_gb": _amount,
    "seed": _whole(0),
    "device": _name,
    "workers": _optional(_whole(1)),
    "worker_type": _choice("threads", "processes"),
    "cache_mb": _whole(0),
    "save_minutes": _amount,
    "peer_timeout_s": Rule("a number above 0", lambda v: _is_number(v) and v > 0),
    "class_weights": _choice("none", "balanced", "effective"),
    "sampling": _choice("natural", "balanced", "repeated"),
    "group_by": _optional(Rule("a column or a regular expression", lambda v: isinstance(v, str) and v != "")),
    "on_bad_image": _choice("error", "skip"),
    "track": _choice("auto", "none", "tensorboard", "wandb", "mlflow"),
}


def peak_rate(optimizer: str, batch_size: int) -> float:
    """Return the usual peak learning rate from scratch.

    SGD's is 0.2 for a batch of 256, in proportion to the batch; AdamW's 1e-3 for 256 and LAMB's 5e-3 for 2,048, to its
    square root (the latter of Wightman et al. 2021, arXiv 2110.00476).
    """
    if optimizer == "sgd":
        return 0.2 * batch_size / 256
    rate, batch = (5e-3, 2048) if optimizer == "lamb" else (1e-3, 256)
    return float(rate * (batch_size / batch) ** 0.5)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Plain):
    """Every setting of a run; ``RUN/config.json`` holds one, resolved.

    The defaults are those of training from scratch: SGD with Nesterov momentum, linear warm-up and cosine decay, label
    smoothing, no decay on norms and biases, and an exponential moving average of the weights: the common ground of the
    published ResNet recipes. Where training starts from ``weights``, ``training.plan`` has others.

    Raises:
        ConfigError: listing every value that is out of range.
    """

    noun = "setting"

    # what is trained
    recipe: str = "scratch"  # of STRATEGIES, or a key of IMAGENET_RECIPES
    weights: str | None = None  # a model file, or a published name: what training starts from
    task: str | None = None  # of TASKS; None: as the data says
    arch: str = "resnet50v2"  # a key of ARCHITECTURES
    dialect: str = "torch"  # a key of DIALECTS
    model: Mapping[str, Any] = field(default_factory=dict)  # fields of ResNetV2Config: --set model.stem=3x3

    # what it sees
    image_size: int = 224  # side in pixels of the square that the network sees
    start_image_size: int | None = None  # side at first, rising to image_size in steps of 32; None: image_size
    resize_ramp: tuple[float, float] = (0.4, 0.8)  # shares of the run between which that side rises
    val_image_size: int | None = None  # side in validation and in use; None: image_size
    crop_pct: float | None = (
        None  # that square's side, as a share of the resized picture's shortest; None: 1, or the weights'
    )
    hflip: float | None = None  # probability of a mirror image; None: 0.5, but 0 for characters and numbers
    crop_scale: tuple[float, float] | None = None  # the random crop's share of the area; above 1 zooms out
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the random crop
    auto_augment: str = "none"  # "trivial": TrivialAugment, wide; "rand-m7": RandAugment, two operations at 7 of 10
    random_erasing: float = 0.0  # probability that a patch of a picture is erased
    mixup: float = 0.0  # alpha of mixup's Beta distribution; 0: none
    cutmix: float = 0.0  # alpha of CutMix's; with both, each batch takes one of them by a fair coin
    dct_scaling: bool = True  # decode a JPEG 2, 4 or 8 times smaller where its crop keeps enough pixels
    sampling: str = "natural"  # "balanced": as many pictures, equally many a class; "repeated": a third, three times

    # how it learns
    epochs: int = 30
    batch_size: int = 32  # pictures a step, over all processes
    grad_accum_steps: int = 1  # parts that a batch is computed in, to save memory; batch norm sees each by itself
    optimizer: str = "sgd"  # "sgd" (Nesterov), "adamw", "lamb"
    lr: float | None = None  # peak rate; None: as ``peak_rate`` has it
    momentum: float = 0.9
    schedule: str = "cosine"  # after warm-up; a key of SCHEDULES
    warmup_epochs: float = 2.0  # at most a quarter of the run
    weight_decay: float = 5e-4  # on convolutions and the head alone
    layer_decay: float = 1.0  # the rate's factor from each layer to the one below
    l2_sp: float = 0.0  # decay of convolutions toward the starting weights, in place of toward zero
    clip_grad: float | None = None  # largest norm of the gradient
    loss: str | None = None  # None: cross_entropy, of several classes bce, of numbers mse
    label_smoothing: float | None = None  # None: 0.1 with cross_entropy, else 0
    class_weights: str = "none"  # of the loss: "balanced": 1 / pictures of the class; "effective": arXiv 1901.05555
    ema_decay: float = 0.9999  # the newest steps count more at first: min(ema_decay, (1 + step) / (10 + step))
    ema_every: int = 8  # steps between two updates of the average
    drop_rate: float = 0.0  # dropout before the head
    drop_path_rate: float = 0.0  # stochastic depth
    zero_init_last: bool = False
    bn: str = "train"  # "frozen": statistics stay to the bit; "recalibrate": exact ones before each validation
    views: int = 1  # of each picture, where features are computed once: the picture, its mirror image, crops

    # where and how it runs
    seed: int = 0
    device: str = "auto"  # "auto" | "cpu" | "cuda" | "cuda:1" | "mps"
    sync_bn: bool = False  # batch norm over the batches of all processes
    memory: str = "saved"  # "recompute": half the activation memory, the same bits, a little slower
    kernels: str = "auto"  # fused ones where measured faster: bf16 on Hopper GPUs; "plain": never; "fused": on any GPU
    amp: str = "off"  # "bf16", "fp16": mixed precision
    compile: bool = False  # torch.compile
    workers: int | None = None  # how many decode; None: one for each processor, at most 8
    worker_type: str = "threads"  # "processes" decode training pictures in processes of their own, and keep none
    cache_mb: int = 256  # memory (2^20 bytes) for small pictures kept decoded; the 50,000 of CIFAR-10 take 159
    features_gb: float = 4.0  # disk (10^9 bytes) that maps of one run may take in the user's cache
    save_minutes: float = 1.0  # between two checkpoints
    peer_timeout_s: float = 600.0  # seconds that processes wait for one of them that does not answer
    track: str = "auto"  # "auto": TensorBoard where it is installed; "none", "tensorboard", "wandb", "mlflow"

    # which pictures
    group_by: str | None = None  # what the split keeps together: a column of the CSV, or an expression on the path
    on_bad_image: str = "error"  # "skip": train without the pictures that cannot be read

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule.what}, got {getattr(self, name)!r}"
            for name, rule in RULES.items()
            if not rule.holds(getattr(self, name))
        ]
        problems += self._contradictions() if not problems else []
        if not {"arch", "dialect", "model"} & {problem.split()[0] for problem in problems}:
            try:
                self.architecture(num_classes=1)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("; ".join(problems))

    def _contradictions(self) -> Iterator[str]:
        if self.class_weights != "none" and self.sampling == "balanced":
            yield "class_weights and sampling both make up for rare classes, which would count twice; choose one"
        if self.class_weights == "effective" and self.recipe == "probe":
            yield "recipe 'probe' takes class_weights none or balanced"
        if self.start_image_size is not None and self.start_image_size > self.image_size:
            yield f"start_image_size {self.start_image_size} must be at most image_size {self.image_size}"
        if self.recipe not in STRATEGIES and self.recipe not in IMAGENET_RECIPES:
            yield unknown("recipe", self.recipe, (*STRATEGIES, *IMAGENET_RECIPES))
        if self.weights is None and self.recipe in PRETRAINED:
            yield f"recipe {self.recipe!r} starts from weights: name a model file or published weights with --weights"
        if self.l2_sp and self.weights is None:
            yield "l2_sp decays toward the starting weights: name them with --weights"
        if self.batch_size < 2 * self.grad_accum_steps:
            yield f"a batch of {self.batch_size} cannot be cut into {self.grad_accum_steps} parts of two or more"

    def _misfits(self, task: str) -> Iterator[str]:
        """Name settings of classes that a task without them, or with several, cannot have."""
        chosen = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        chosen += [f"class_weights={self.class_weights}"] if self.class_weights != "none" else []
        if task == "regression" and chosen:
            yield f"targets that are numbers have no classes to mix or weight: leave out {', '.join(chosen)}"
        if task == "multilabel" and self.class_weights == "effective":
            yield "class_weights=effective is for one class a picture; choose balanced"
        if task != "classification" and self.sampling == "balanced":
            yield "sampling=balanced is for pictures of one class each"

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr if self.lr is not None else peak_rate(self.optimizer, self.batch_size)

    def architecture(self, num_classes: int) -> ResNetV2Config:
        """Return the network this run trains."""
        for key in self.model:
            if key not in _FIELDS:
                raise ConfigError(unknown(ResNetV2Config.noun, str(key), _FIELDS))
        fixed = sorted(set(self.model) & {"num_classes", "in_chans"})
        if fixed:
            raise ConfigError(f"model.{fixed[0]} is set by the data and cannot be chosen")
        return architecture(self.arch, self.dialect, num_classes=num_classes, **self.model)

    def fitted(self, task: str, classes: Sequence[str]) -> Self:
        """Return the config with the task, and the rate and augmentation that fit it filled in where none was chosen.

        Photographs are mirrored and cropped hard. Characters ("7", "b", "AB") are not: a mirrored 2 is no 2. What is
        measured (regression) may depend on size and side, so pictures are cropped little and not mirrored.

        Raises:
            ConfigError: settings that the task has no use for.
        """
        problems = list(self._misfits(task))
        if problems:
            raise ConfigError("; ".join(problems))
        if task == "regression":
            hflip, scale = 0.0, (0.8, 1.0)
        else:
            glyphs = task == "classification" and all(len(name) <= GLYPH_LENGTH for name in classes)
            hflip, scale = (0.0, (0.7, 1.3)) if glyphs else (0.5, (0.35, 1.0))
        loss = self.loss or LOSSES[task]
        smoothing = 0.1 if loss == "cross_entropy" else 0.0
        return replace(
            self,
            task=task,
            lr=self.peak_lr,
            loss=loss,
            label_smoothing=smoothing if self.label_smoothing is None else self.label_smoothing,
            hflip=hflip if self.hflip is None else self.hflip,
            crop_scale=scale if self.crop_scale is None else self.crop_scale,
        )


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
