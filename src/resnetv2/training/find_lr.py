"""The learning-rate range test on a user's own pictures and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from resnetv2.console import Counter
from resnetv2.data.index import refuse_inside
from resnetv2.data.load import Batch
from resnetv2.errors import ConfigError
from resnetv2.recipes import PRETRAINED
from resnetv2.training.loop import Run
from resnetv2.training.ranges import HIGH, LOW, STEPS, RangeTest, scan_rates, write_range_plot
from resnetv2.training.run import make_run, prepare


def find_lr(
    data: str | Path,
    *,
    weights: str | Path | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the command's word
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    plot: str | Path | None = None,
    progress: Counter | None = None,
) -> RangeTest:
    """Find a peak learning rate: train a step at each of ever higher ones, and look where the loss falls and turns.

    The network begins as ``train`` would begin it, with the same settings, sees the same batches, and is forgotten.

    Args:
        data, weights, set: as ``train`` takes them. With weights, the whole network is fine-tuned.
        low, high: the first and the last rate.
        steps: how many rates, at equal ratios.
        plot: a PNG or SVG file to write, with the curve.
        progress: called with the steps done and the total.

    Returns:
        Rates, losses, and the suggested rate, None where the curve says nothing; with the reason.

    Raises:
        ConfigError: settings that cannot be, or a range that makes no curve.
        DataError: pictures that cannot be used.
        Error: ``plot`` cannot be written.
    """
    data = Path(data)
    if plot is not None:
        refuse_inside(plot, data)
    settings = {**(set or {}), **({} if weights is None else {"weights": str(weights)})}
    if settings.get("weights") is not None:
        settings = {"recipe": "finetune", **settings}
    if settings.get("recipe") in PRETRAINED and settings["recipe"] != "finetune":
        raise ConfigError(f"recipe {settings['recipe']!r} trains no whole network: leave it out")
    config, index, _, start = prepare(data, settings)
    run = make_run(config, index, Path(), start)
    run.model.train()
    batches, taken = _endless(run), count(1)

    def step(rate: float) -> float:
        loss = run.try_step(next(batches), rate).loss
        if progress is not None:
            progress(next(taken), steps)
        return loss

    test = scan_rates(step, low, high, steps)
    if plot is not None:
        write_range_plot(Path(plot), test)
    return test


def _endless(run: Run) -> Iterator[Batch]:
    for epoch in count():
        yield from run.parts.train.batches(epoch)
