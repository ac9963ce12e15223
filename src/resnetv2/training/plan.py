"""Which settings a run has, told from the pictures, the starting weights and the time there is. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnetv2.errors import ConfigError
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.recipes import TrainConfig
from resnetv2.weights.modelfile import Header

SMALL = 96 * 96  # pixels of a picture; below, BiT-HyperRule takes smaller sizes (arXiv 1912.11370, section 3.3)
FEW = 10  # training pictures a class, on average, below which only the head is trained
PATIENCE = {"cpu": 15 * 60.0, "cuda": 60 * 60.0, "mps": 30 * 60.0}  # seconds that "auto" takes where no budget is given
# Passes through the network that one pass over the pictures costs, in forward passes: what is measured is one of those.
BACKWARD = 3.0  # forward, and twice that for the gradients
TAIL = 0.6  # the last stage forward and backward: 4.9 of the whole network's 8.2 GFLOP at 224 pixels
LP_FT_EPOCHS = 4
MIXUP_FROM = 20_000  # training pictures from which fine-tuning mixes them, as BiT-HyperRule


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
    own: Mapping[str, Any] = {}
    if recipe in IMAGENET_RECIPES:
        own = IMAGENET_RECIPES[recipe].settings
    elif recipe in PRETRAINED_SETTINGS and facts.start is not None:
        own = PRETRAINED_SETTINGS[recipe](facts)
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
        "image_size": _image_size(facts),
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
        "image_size": _image_size(facts),
        "epochs": LP_FT_EPOCHS,
        "batch_size": 32,
        "lr": 0.01,
        "warmup_epochs": 0.5,
        "schedule": "cosine",
        "weight_decay": 1e-4,
        "ema_decay": 0.99,
    }


def probe_settings(facts: Facts) -> dict[str, Any]:
    """Return the settings of a linear probe: a head on features that are computed once."""
    return {"image_size": _image_size(facts), "epochs": 1, "hflip": 0.0, "crop_scale": (1.0, 1.0)}


PRETRAINED_SETTINGS = {"finetune": finetune_settings, "lp-ft": lp_ft_settings, "probe": probe_settings}


def choose_strategy(facts: Facts, seconds: float, budget: float | None) -> tuple[str, str]:
    """Choose how to train from weights.

    Args:
        facts: see there.
        seconds: that one picture takes through the network, forward.
        budget: seconds that training may take; None is PATIENCE.

    Returns:
        "probe", "lp-ft" or "finetune", and why in a sentence.
    """
    limit = PATIENCE[facts.device] if budget is None else budget
    per_pass = facts.pictures * seconds
    times = {
        "finetune": per_pass * BACKWARD * finetune_settings(facts)["epochs"],
        "lp-ft": per_pass * (1 + TAIL * LP_FT_EPOCHS),
        "probe": per_pass,
    }
    told = ", ".join(f"{name} about {say_seconds(time)}" for name, time in times.items())
    within = f"{told}; {'limit' if budget is None else 'budget'} {say_seconds(limit)}"
    if facts.pictures < FEW * facts.classes:
        return (
            "probe",
            f"{facts.pictures:,} pictures for {facts.classes:,} classes are too few to train more than a head",
        )
    for name, time in times.items():
        if time <= limit:
            return name, within
    return "probe", f"{within}, which none keeps: the quickest"


def say_seconds(seconds: float) -> str:
    """Return a time in words, such as "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _image_size(facts: Facts) -> int:
    size = facts.start.preprocessing.image_size if facts.start is not None else 224
    return min(size, 128) if facts.area < SMALL else size
