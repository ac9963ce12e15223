"""Learning rates and picture sizes over a run, as pure functions. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable

from resnetv2.errors import ConfigError, unknown


def _cosine(step: float, warmup: float, total: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _linear(step: float, warmup: float, total: int) -> float:
    return 1 - (step - warmup) / (total - warmup)


def _step(step: float, _warmup: float, total: int) -> float:
    return 0.1 ** sum(step >= share * total for share in (0.3, 0.6, 0.9))


def _constant(_step: float, _warmup: float, _total: int) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float, float, int], float]] = {
    "cosine": _cosine,  # half a cosine down to 0 (Loshchilov & Hutter 2016, arXiv 1608.03983)
    "linear": _linear,  # straight down to 0, as FFCV's ImageNet recipes have it
    "step": _step,  # a tenth after 30, 60 and 90 % of the run, as BiT's fine-tuning (arXiv 1912.11370)
    "constant": _constant,
}


def rate_at(schedule: str, peak: float, step: int, total: int, warmup: float = 0.0) -> float:
    """Return the learning rate of a step: linear warm-up, then the schedule.

    Args:
        schedule: a key of ``SCHEDULES``.
        peak: the rate at the end of warm-up.
        step: counted from 0.
        total: steps of the run.
        warmup: steps of warm-up, below ``total``; a fraction is possible.

    Raises:
        ConfigError: the schedule is unknown, or warm-up takes the whole run.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(unknown("schedule", schedule, SCHEDULES))
    if warmup >= total:
        raise ConfigError(f"warm-up must be shorter than the run, got {warmup:g} of {total} steps")
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * SCHEDULES[schedule](step, warmup, total)


def image_size_at(share: float, first: int, last: int, ramp: tuple[float, float], multiple: int) -> int:
    """Return the side in pixels of the training pictures: small at first, rising in a straight line to full size.

    Args:
        share: of the run that is done, from 0 to below 1; an epoch's is ``epoch / epochs``, counted from 0.
        first: side until the ramp.
        last: side from the end of the ramp, at least ``first``.
        ramp: shares of the run at which the rise begins and ends.
        multiple: sides in between are rounded to this. FFCV's recipes go from 160 to 192 in steps of 32 between about
            75 and 86 %, Composer's progressive resizing from half to full size in steps of 4 between 40 or 50 and 80 %.

    Raises:
        ConfigError: sizes or ramp fall.
    """
    begin, end = ramp
    if not (0 < first <= last and 0 <= begin <= end <= 1 and multiple >= 1):
        raise ConfigError(
            f"progressive sizes must rise from above 0, their ramp within 0 … 1, and the multiple be at least 1; "
            f"got sides {first} … {last}, ramp {begin:g} … {end:g}, multiple {multiple}"
        )
    if share >= end:
        return last
    if share <= begin:
        return first
    side = first + (last - first) * (share - begin) / (end - begin)
    return min(max(round(side / multiple) * multiple, first), last)
