"""A learning-rate range test (Smith 2015, arXiv 1506.01186): which rate to train with, found by trying them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetv2.errors import ConfigError
from resnetv2.training.plots import LIGHT, Theme, drawing, label, make_page, save_figure, write_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW, HIGH, STEPS = 1e-5, 10.0, 100
_FEWEST = 10  # steps that make a curve
_DIVERGED = 4.0  # times the lowest smoothed loss: there the test ends
_CLEAR = 2.0  # a fall counts from so many times the scatter of single batches; noise alone reaches about 1.5
_ROOM = 10.0  # between the suggestion and the rate of the lowest loss


@dataclass(frozen=True)
class RangeTest:
    """What a test found.

    ``rates`` rise; ``losses`` are those of single batches, ``smoothed`` their mean over neighbours, all finite float64
    (steps,). ``suggested`` is a peak rate of two digits, or None where the curve says nothing; ``reason`` says why.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggested: float | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        lists = {"rates": self.rates, "losses": self.losses, "smoothed": self.smoothed}
        return {"suggested": self.suggested, "reason": self.reason, **{k: v.tolist() for k, v in lists.items()}}


def scan_rates(step: Callable[[float], float], low: float = LOW, high: float = HIGH, steps: int = STEPS) -> RangeTest:
    """Train one step at each of ever higher rates, until the loss runs away, and read the curve.

    Args:
        step: takes one training step at a rate and returns that batch's loss. It changes the network: let it work on a
            copy, or go back to the weights afterwards.
        low: the first rate.
        high: the last rate.
        steps: how many rates, at equal ratios.

    Raises:
        ConfigError: the range or the number of steps makes no curve.
    """
    if not (0 < low < high < math.inf and steps >= _FEWEST):
        raise ConfigError(
            f"a range test needs rates that rise from above 0 and at least {_FEWEST} steps, "
            f"got {low:g} to {high:g} in {steps}"
        )
    rates = np.geomspace(low, high, steps).tolist()
    losses: list[float] = []
    for rate in rates:
        losses.append(float(step(rate)))
        if not math.isfinite(losses[-1]):
            break
        course = smooth(np.array(losses))
        if course[-1] > _DIVERGED * course.min() > 0:
            break
    return read_range(rates[: len(losses)], losses)


def read_range(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Suggest a peak rate: a tenth of the one at which the smoothed loss is lowest, where it falls clearly and turns.

    Args:
        rates: rising.
        losses: one for each; from the first that is no finite number on they are left out.
    """
    finite = np.isfinite(np.asarray(losses, float))
    end = len(finite) if finite.all() else int(finite.argmin())
    kept, values = np.asarray(rates, float)[:end], np.asarray(losses, float)[:end]
    smoothed = smooth(values)
    suggested, reason = _judge(kept, values, smoothed)
    return RangeTest(kept, values, smoothed, suggested, reason)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Return each of losses (n,) averaged with a tenth of n to either side, near ones weighing more."""
    if len(losses) == 0:
        return losses
    half = max(len(losses) // 10, 1)
    window = np.hanning(2 * half + 3)[1:-1]
    weight = np.convolve(np.ones(len(losses)), window, mode="full")[half:-half]
    smoothed: np.ndarray = np.convolve(losses, window, mode="full")[half:-half] / weight
    return smoothed


def _judge(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> tuple[float | None, str]:
    if len(losses) < _FEWEST:
        return None, f"the loss was no number after {len(losses)} steps: begin with a lower rate"
    lowest = int(smoothed.argmin())
    before = slice(0, max(lowest, _FEWEST))
    scatter = float(np.median(np.abs(losses[before] - smoothed[before]))) * 1.4826  # of a normal distribution, its σ
    fall = float(smoothed[:lowest].max() - smoothed[lowest]) if lowest else 0.0
    if fall <= max(_CLEAR * scatter, 1e-3 * abs(float(smoothed[0]))):
        return None, (
            f"no clear fall: {fall:.2g} at most, where single batches scatter by {scatter:.2g}; take more steps"
        )
    if lowest >= len(losses) - 1 - len(losses) // 20:
        return None, f"the loss still falls at the highest rate, {rates[-1]:.2g}: raise it"
    return float(f"{rates[lowest] / _ROOM:.1e}"), (
        f"the loss is lowest at {rates[lowest]:.2g} and rises above; a tenth of that leaves room"
    )


def write_range_plot(path: Path, test: RangeTest) -> Path:
    """Draw a test as PNG or SVG, by the path's ending; equal tests give equal bytes.

    Raises:
        MissingExtra: matplotlib is not installed.
        Error: the file system refused.
    """
    with drawing():
        save_figure(path, draw_range(test, LIGHT), _heading(test))
    return path


def draw_range(test: RangeTest, theme: Theme) -> Figure:
    """Return the figure of a test: single losses as dots, their course, and the suggested rate."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    figure, (axis,) = make_page(theme, [2.6], _heading(test), test.reason)
    write_title(axis, theme, "Training loss of single batches")
    axis.set_xscale("log")
    axis.plot(test.rates, test.losses, "o", markersize=3, color=theme.soft, alpha=0.45, markeredgewidth=0)
    axis.plot(test.rates, test.smoothed, color=theme.val, linewidth=2, solid_capstyle="round")
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_locator(LogLocator(numticks=9))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(which="both", length=0, labelbottom=True)
    axis.spines["bottom"].set(visible=True, color=theme.soft, linewidth=0.8)
    label(axis, theme, "learning rate", (1, 0), (30, -11))
    if len(test.losses):
        low, start = float(test.losses.min()), float(test.smoothed[0])
        room = max(start - low, 0.05 * abs(start), 1e-6)
        axis.set_ylim(low - 0.1 * room, start + 0.7 * room)  # where it runs away is no matter
    if test.suggested is not None:
        axis.axvline(test.suggested, color=theme.train, linewidth=1.2)
        label(axis, theme, f"{test.suggested:g}", (test.suggested, 1), (0, 6), over_data=True, colour=theme.train)
    return figure


def _heading(test: RangeTest) -> str:
    return "No rate to suggest" if test.suggested is None else f"Learning rate {test.suggested:g}"
