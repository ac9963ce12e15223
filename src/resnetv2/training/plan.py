"""Which settings a run has, told from the pictures, the starting weights and the time there is. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from resnetv2.errors import ConfigError
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.recipes import TrainConfig, peak_rate
from resnetv2.weights.modelfile import Header

SMALL = 96 * 96  # pixels of a picture; below, BiT-HyperRule takes smaller sizes (arXiv 1912.11370, section 3.3)
FEW = 10  # training pictures a class, on average, below which only the head is trained
PATIENCE = {"cpu": 15 * 60.0, "cuda": 60 * 60.0, "mps": 30 * 60.0}  # seconds that "auto" takes where no budget is given
# Passes through the network that one pass over the pictures costs, in forward passes: what is measured is one of those.
BACKWARD = 3.0  # forward, and twice that for the gradients
TAIL = 0.6  # the last stage forward and backward: 4.9 of the whole network's 8.2 GFLOP at 224 pixels
LP_FT_EPOCHS = 2
MIXUP_FROM = 20_000  # training pictures from which fine-tuning mixes them, as BiT-HyperRule
_SIZES = {"start_image_size", "resize_ramp", "val_image_size"}  # of pictures that are seen in several
_KEPT = {"views", "features_gb"}  # of recipes that keep what the network makes of the pictures
IDLE: Mapping[str, Set[str]] = {  # settings that a recipe has no use for; those without an entry: _KEPT
    "finetune": {*_KEPT, "zero_init_last"},
    "lp-ft": {*_SIZES, "zero_init_last", "sync_bn", "kernels"},
    "probe": {
        *_SIZES,
        *("epochs", "batch_size", "grad_accum_steps", "optimizer", "lr", "momentum", "schedule", "warmup_epochs"),
        *("weight_decay", "layer_decay", "l2_sp", "clip_grad", "loss", "label_smoothing", "ema_decay", "ema_every"),
        *("drop_rate", "drop_path_rate", "zero_init_last", "bn", "sync_bn", "mixup", "cutmix", "sampling"),
        *("amp", "compile", "memory", "kernels"),
    },
}


@dataclass(frozen=True)
class Facts:
    """What a plan depends on.

    Attributes:
        pictures: for training.
        classes: how many there are; 1 where a number is learnt.
        area: pixels of the median picture.
        start: the starting weights' header, or None.
        device: "cpu", "cuda" or "mps".
    """

    pictures: int
    classes: int
    area: float
    start: Header | None
    device: str


def resolve_recipe(settings: Mapping[str, Any]) -> str:
    """Return the recipe that was asked for, or the default: "auto" with weights, "scratch" without."""
    return str(settings.get("recipe") or ("auto" if settings.get("weights") else "scratch"))


def make_config(recipe: str, settings: Mapping[str, Any], facts: Facts) -> TrainConfig:
    """Return the config of a recipe with the settings that were chosen; the others are the recipe's.

    Args:
        recipe: of STRATEGIES but "auto", or a key of IMAGENET_RECIPES.
        settings: those that somebody chose.
        facts: see there.

    Raises:
        ConfigError: unknown or impossible settings, or an architecture beside weights, which have their own.
    """
    chosen = sorted({"arch", "dialect", "model"} & set(settings)) if facts.start is not None else []
    if chosen:
        raise ConfigError(f"the weights bring their architecture: leave out {', '.join(chosen)}")
    if recipe == "scratch" and facts.start is not None:
        raise ConfigError(
            "recipe 'scratch' starts from random weights: leave out --weights, or choose --recipe finetune"
        )
    idle = sorted(IDLE.get(recipe, _KEPT) & set(settings))
    if idle:
        raise ConfigError(
            f"recipe {recipe!r} has no use for {', '.join(idle)}: leave them out, or choose another recipe"
        )
    own: Mapping[str, Any] = {}
    if recipe in IMAGENET_RECIPES:
        own = IMAGENET_RECIPES[recipe].settings
    elif recipe in PRETRAINED_SETTINGS and facts.start is not None:
        own = PRETRAINED_SETTINGS[recipe](facts)
        optimizer = settings.get("optimizer", "sgd")
        if "lr" in own and optimizer != "sgd":  # as far below its rate from scratch as SGD's is
            batch = settings.get("batch_size", own["batch_size"])
            own = {**own, "lr": own["lr"] / peak_rate("sgd", own["batch_size"]) * peak_rate(optimizer, batch)}
    return TrainConfig.from_dict({**own, **settings, "recipe": recipe})


def finetune_settings(facts: Facts) -> dict[str, Any]:
    """Return the settings of fine-tuning, a function of the number of pictures and their area alone.

    After BiT-HyperRule (Kolesnikov et al. 2019, arXiv 1912.11370): the length follows the number of pictures, mixup
    comes with many of them, and small pictures are not enlarged to the full size. Otherwise than there, the size is at
    most that of the weights, and few pictures are passed over 20 times instead of some hundred, so that a laptop
    can do it.
    """
    n = facts.pictures
    epochs = 20 if n < 20_000 else max(1, round(5_120_000 / max(n, 512_000)))
    return {
        "image_size": fitting_size(facts),
        "epochs": epochs,
        "batch_size": 32,
        "lr": 0.01,
        "warmup_epochs": 1,
        "schedule": "cosine",
        "weight_decay": 1e-4,
        "ema_decay": 0.999,
        "mixup": 0.1 if n >= MIXUP_FROM else 0.0,
    }


def lp_ft_settings(facts: Facts) -> dict[str, Any]:
    """Return the settings of a linear probe and then the last stage (Kumar et al. 2022, arXiv 2202.10054)."""
    return {
        "image_size": fitting_size(facts),
        "epochs": LP_FT_EPOCHS,
        "batch_size": 32,
        "lr": 0.01,
        "warmup_epochs": 0.5,
        "schedule": "cosine",
        "weight_decay": 1e-4,
        "ema_decay": 0.0,
        "bn": "frozen",  # the head was solved for on these statistics
        "label_smoothing": 0.0,  # a head that was solved for is surer than smoothed labels allow, and would unlearn it
    }


def probe_settings(facts: Facts) -> dict[str, Any]:
    """Return the settings of a linear probe: a head that is solved for, on features that are computed once."""
    return {"image_size": fitting_size(facts), "epochs": 1, "ema_decay": 0.0}


PRETRAINED_SETTINGS = {"finetune": finetune_settings, "lp-ft": lp_ft_settings, "probe": probe_settings}


def fitting_strategies(settings: Mapping[str, Any], map_bytes: float, excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the recipes that have a use for all settings that were chosen, and room for what they keep.

    Args:
        settings: those that somebody chose.
        map_bytes: what "lp-ft" would keep.
        excluded: recipes that several processes cannot share.

    Raises:
        ConfigError: there is none.
    """
    room = TrainConfig.from_dict(settings).features_gb * 1e9
    names = [name for name in PRETRAINED_SETTINGS if name not in excluded and not IDLE[name] & set(settings)]
    fitting = tuple(name for name in names if name != "lp-ft" or map_bytes <= room)
    if not fitting:
        raise ConfigError(
            "no recipe has a use for all of these settings together: "
            + ("leave some out, or start it without torchrun" if excluded else "name one with --recipe")
        )
    return fitting


def choose_strategy(
    facts: Facts,
    seconds: float,
    budget: float | None,
    fitting: Sequence[str] = tuple(PRETRAINED_SETTINGS),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, str]:
    """Choose how to train from weights.

    Args:
        facts: see there.
        seconds: that one picture takes through the network, forward.
        budget: seconds that training may take; None is PATIENCE.
        fitting: the recipes to choose from; see ``fitting_strategies``.
        settings: those that somebody chose, of which ``epochs`` and ``views`` cost time.

    Returns:
        "probe", "lp-ft" or "finetune", and why in a sentence.
    """
    limit = PATIENCE[facts.device] if budget is None else budget
    per_pass, views = facts.pictures * seconds, int(settings.get("views", 1))

    def epochs(name: str) -> int:
        return int(settings.get("epochs") or PRETRAINED_SETTINGS[name](facts)["epochs"])

    costs = {
        "finetune": per_pass * BACKWARD * epochs("finetune"),
        "lp-ft": per_pass * (views + TAIL * epochs("lp-ft")),
        "probe": per_pass * views,
    }
    times = {name: time for name, time in costs.items() if name in fitting}
    told = ", ".join(f"{name} about {say_seconds(time)}" for name, time in times.items())
    within = f"{told}; {'limit' if budget is None else 'budget'} {say_seconds(limit)}"
    if facts.pictures < FEW * facts.classes and "probe" in fitting:
        return (
            "probe",
            f"{facts.pictures:,} pictures for {facts.classes:,} classes are too few to train more than a head",
        )
    for name, time in times.items():
        if time <= limit:
            return name, within
    return list(times)[-1], f"{within}, which none keeps: the quickest"


def say_seconds(seconds: float) -> str:
    """Return a time in words, such as "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def fitting_size(facts: Facts) -> int:
    """Return the side in pixels that pictures are brought to: the weights' own, or less for small ones."""
    size = facts.start.preprocessing.image_size if facts.start is not None else 224
    return min(size, 128) if facts.area < SMALL else size
