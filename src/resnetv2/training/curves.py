"""Curves of a run as SVG for its page, in the page's colours: the score that decides, the loss, and the rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from resnetv2.evaluation.charts import Plane
from resnetv2.training.plots import SCORES, Score, best_place

_FALL = 20  # an error that falls by a larger factor is drawn on a logarithmic scale
_MOST = 400  # points of a curve
_SIZE = (300, 230)
_NAMES = {"val": "validation", "train": "training"}
_LOSS, _RATE = SCORES[-1], Score("lr", "Learning rate")


def draw_run(history: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """Return of each chart its title, a sentence that says how to read it, and the SVG.

    Args:
        history: columns of the log, float64 (epochs,); see ``read_history``.
    """
    best = best_place(history)
    charts = []
    if best is not None and best[0].key != _LOSS.key:
        charts.append((best[0].title, _say_best(history, *best), _draw(history, best[0], best[1])))
    if curves := _curves(history, _LOSS):
        values = np.concatenate([y for _, _, y in curves])
        scale = ", on a logarithmic scale" if _is_log(_LOSS, values) else ""
        chart = _draw(history, _LOSS, None if best is None else best[1])
        charts.append((_LOSS.title, f"Less is better{scale}.", chart))
    if len(history["epoch"]) > 1 and np.nan_to_num(history.get("lr", np.zeros(1))).any():
        charts.append((_RATE.title, "At the end of each epoch.", _draw(history, _RATE, None)))
    return charts


def _say_best(history: Mapping[str, np.ndarray], score: Score, place: int) -> str:
    epochs = history["epoch"]
    value = score.text(history[f"val_{score.key}"][place])
    return f"Best on validation in epoch {epochs[place]:,.0f} of {epochs[-1]:,.0f}: {value}."


def _draw(history: Mapping[str, np.ndarray], score: Score, best: int | None) -> str:
    """Return the chart of a score over the epochs, the best epoch marked."""
    curves = _curves(history, score)
    plane = _plane(history["epoch"], score, np.concatenate([y for _, _, y in curves]))
    marks = []
    if best is not None:
        epoch = float(history["epoch"][best])
        marks.append(plane.line([(epoch, plane.y[0]), (epoch, plane.y[1])], "ideal"))
    for half, x, y in curves:
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        marks.append(plane.line(points, half))
        if len(points) == 1:
            marks.append(plane.dot(*points[0], 4, kind=f"dot {half}"))
        if best is not None and half == "val" and history["epoch"][best] in x:
            value = history[f"val_{score.key}"][best]
            note = f"epoch {epoch:,.0f}: {score.text(value)}"
            marks.append(plane.dot(epoch, float(value), 4.5, note, "dot val"))
    names = [half for half, _, _ in curves if half in _NAMES]
    return plane.draw(f"{score.title} over the epochs", *marks, *plane.legend({half: _NAMES[half] for half in names}))


def _curves(history: Mapping[str, np.ndarray], score: Score) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the curves of a score as half, epochs and values, training first, so that validation lies on top."""
    columns = {"lr": "lr"} if score is _RATE else {half: f"{half}_{score.key}" for half in ("train", "val")}
    curves = []
    for half, key in columns.items():
        values = history.get(key, np.array([]))
        places = np.flatnonzero(np.isfinite(values))
        if len(places):
            chosen = places[np.unique(np.linspace(0, len(places) - 1, _MOST).round().astype(int))]
            curves.append((half, history["epoch"][chosen], values[chosen]))
    return curves


def _plane(epochs: np.ndarray, score: Score, values: np.ndarray) -> Plane:
    low, high = float(values.min()), float(values.max())
    first, last = float(epochs[0]), float(epochs[-1])
    x = (first, last) if last > first else (first - 0.5, last + 0.5)
    count, ticks = "{:,.0f}".format, _whole_steps(first, last)
    if _is_log(score, values):
        y = (low / 1.15, high * 1.15)
        return Plane(x, y, "epoch", "", "{:g}".format, count, ticks, _log_steps(*y), y_log=True, size=_SIZE)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    y = (low - room, high + room)
    if score.is_share:
        y = (max(y[0], 0.0), min(y[1], 1.0))
    if score is _RATE:
        y = (0.0, y[1])
    return Plane(x, y, "epoch", "", _percent if score.is_share else "{:g}".format, count, ticks, size=_SIZE)


def _is_log(score: Score, values: np.ndarray) -> bool:
    return score.is_error and bool(values.min() > 0 and values.max() / values.min() > _FALL)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _whole_steps(low: float, high: float) -> Sequence[float]:
    """Return at most eight whole numbers from low to high."""
    rough = max(1.0, (high - low) / 7)
    power: int = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    whole = range(math.ceil(low / step) * step, int(high) + 1, step)
    return [low, *(float(v) for v in whole if v - low > step / 2)]


def _log_steps(low: float, high: float) -> Sequence[float]:
    """Return round numbers from low to high: powers of ten, with 2 and 5 between where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        steps = [m * 10.0**p for p in powers for m in factors if low <= m * 10.0**p <= high]
        if len(steps) <= 7:
            return steps
    return steps[:: math.ceil(len(steps) / 7)]
