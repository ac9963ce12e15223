"""Curves of a run to look at: score, loss and learning rate, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from resnetv2.errors import DataError, MissingExtra
from resnetv2.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 7.6  # inches, at 72 points each; the SVG scales
_DPI = 160  # of the PNG: sharp at half its pixels


@dataclass(frozen=True)
class Theme:
    """Colours of a plot, for a light or a dark page; lines and words stand out by at least 4.5 : 1."""

    paper: str
    ink: str
    soft: str
    line: str
    val: str
    train: str


LIGHT = Theme("#fbfbfa", "#1b1d21", "#656b76", "#e3e4e7", "#1f5f99", "#a85a12")
DARK = Theme("#131518", "#e7e9ec", "#979eaa", "#2d3137", "#7db4e6", "#dda15e")


@dataclass(frozen=True)
class Score:
    """A figure of validation: its name in the log after ``val_``, in words, and how to read it."""

    key: str
    title: str
    is_share: bool = False  # shown in percent
    is_error: bool = False  # less is better

    def text(self, value: float) -> str:
        """Return a value as it is read: 91.2 %, or 0.123."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.3g}"


# The first of these that a run has decides its best epoch.
SCORES = (
    Score("top1", "Top-1 accuracy", is_share=True),
    Score("map", "Mean average precision", is_share=True),
    Score("mae", "Mean absolute error", is_error=True),
    Score("r2", "R²"),
    Score("loss", "Loss", is_error=True),
)


def write_plots(out: Path) -> list[Path]:
    """Draw a run's curves into its folder; the same log gives the same bytes on the same machine.

    Args:
        out: the run's folder, with ``metrics.jsonl``.

    Returns:
        ``curves.png``, ``curves.svg`` for light pages and ``curves-dark.svg`` for dark ones.

    Raises:
        DataError: there is no log, or no epoch in it.
        MissingExtra: matplotlib is not installed.
        Error: the file system refused.
    """
    history = read_history(out / "metrics.jsonl")
    pages = {"curves.png": LIGHT, "curves.svg": LIGHT, "curves-dark.svg": DARK}
    with drawing():
        for name, theme in pages.items():
            save_figure(out / name, draw_curves(history, theme), heading(history)[0])
    return [out / name for name in pages]


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a log of JSON lines, float64 (epochs,), NaN where a line lacks one.

    Raises:
        DataError: it cannot be read, or holds no epoch.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    lines = [line for line in map(parse_line, text.splitlines()) if "epoch" in line]
    if not lines:
        raise DataError(f"{path} holds no finished epoch yet")
    return {
        key: np.array([_number(line.get(key)) for line in lines]) for key in {k: None for line in lines for k in line}
    }


def parse_line(line: str) -> dict[str, Any]:
    """Return a line of a log, empty if it is not whole."""
    try:
        value = json.loads(line)
    except ValueError:  # of a run that is being written, or was killed in it
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_real else math.nan


def best_place(history: Mapping[str, np.ndarray]) -> tuple[Score, int] | None:
    """Return the score that decides and the place of its best epoch, of equals the last; None without validation."""
    for score in SCORES:
        values = history.get(f"val_{score.key}", np.array([]))
        if np.isfinite(values).any():
            best = np.nanmin(values) if score.is_error else np.nanmax(values)
            return score, int(np.flatnonzero(values == best)[-1])
    return None


# --- the page ---------------------------------------------------------------------------------------------------------


@contextmanager
def drawing() -> Iterator[None]:
    """Set what matplotlib reads from its settings while it draws, and put back what the person had.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingExtra("plots", "train") from error
    settings: dict[Any, Any] = {
        key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"
    }  # not ours to choose
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "resnetv2", "font.family": [_FONT]}
    with mpl.rc_context(settings):
        yield


_FONT = "DejaVu Sans"  # comes with matplotlib: the same bytes everywhere


def save_figure(path: Path, figure: Figure, title: str) -> None:
    """Write a figure without date or version, as PNG or SVG by the path's ending.

    An SVG's words are text in the reader's own font, and it carries ``title`` for those who do not see it.
    """
    buffer = io.BytesIO()
    if path.suffix == ".png":
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None, "Title": title})
        content = buffer.getvalue()
    else:
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
        text = buffer.getvalue().decode().replace(f"'{_FONT}'", f"system-ui, '{_FONT}', sans-serif")
        start = text.index(">", text.index("<svg")) + 1
        content = f"{text[:start]}\n <title>{escape(title)}</title>{text[start:]}".encode()
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def heading(history: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Return what a run came to in a short sentence, and the figures beside it; also an alternative text."""
    epochs, best = history["epoch"], best_place(history)
    if best is None:
        return f"{_count(epochs[-1])} epochs, not validated", ""
    score, place = best
    title = f"{score.title} {score.text(history[f'val_{score.key}'][place])}"
    beside = [f"epoch {_count(epochs[place])} of {_count(epochs[-1])}"]
    size = history.get("val_n", np.array([math.nan]))[-1]
    if math.isfinite(size):
        beside.append(f"{_count(size)} validation pictures")
    if place != len(epochs) - 1:
        beside.append(f"{score.text(_last(history[f'val_{score.key}']))} at the end")
    return title, "  ·  ".join(beside)


def draw_curves(history: Mapping[str, np.ndarray], theme: Theme) -> Figure:
    """Return the figure of a run: a heading in words, scores, loss and rate over the epochs, the best one marked."""
    halves = [(score, [half for half in _HALVES if _has(history, f"{half}_{score.key}")]) for score in SCORES]
    shown = [(score, found) for score, found in halves if found]
    has_rate = _has(history, "lr")
    figure, axes = make_page(theme, [_PANEL] * len(shown) + [_STRIP] * has_rate, *heading(history))
    epochs = history["epoch"]
    for axis, (score, found) in zip(axes, shown, strict=False):
        curves = [Curve(_HALVES[half], history[f"{half}_{score.key}"], getattr(theme, half)) for half in found]
        better = ", less is better" if score.is_error and score.key != "loss" else ""
        draw_panel(axis, theme, f"{score.title}{better}", epochs, curves, score)
    if has_rate:
        draw_panel(axes[-1], theme, "Learning rate", epochs, [Curve("peak", history["lr"], theme.soft)], _RATE)
    mark_epochs(axes, theme, epochs)
    best = best_place(history)
    if best is not None:
        row = [score for score, _ in shown].index(best[0])
        mark_best(axes, row, theme, epochs[best[1]], history[f"val_{best[0].key}"][best[1]])
    return figure


_HALVES = {"train": "training", "val": "validation"}  # drawn in this order: validation on top
_RATE = Score("lr", "Learning rate")
_PANEL, _STRIP = 1.95, 0.7  # inches: heights of a score and of the rate
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 0.68, 1.62, 0.98, 0.62, 0.52  # inches around the panels


def _has(history: Mapping[str, np.ndarray], key: str) -> bool:
    return key in history and bool(np.isfinite(history[key]).any())


def _last(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)][-1])


def _count(value: float) -> str:
    return f"{value:,.0f}"


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One line: its name at its end, values float64 (points,) with NaN for gaps, and a colour."""

    name: str
    values: np.ndarray
    colour: str


def make_page(theme: Theme, heights: Sequence[float], title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with a heading and panels of these heights in inches, one below the other."""
    from matplotlib.figure import Figure

    height = _TOP + sum(heights) + _GAP * len(heights) + _BOTTOM - 0.2
    figure = Figure(figsize=(_WIDTH, height), facecolor=theme.paper)
    left = 0.3 / _WIDTH
    figure.text(left, 1 - 0.36 / height, title, size=17, weight="bold", color=theme.ink, va="center")
    figure.text(left, 1 - 0.68 / height, subtitle, size=10, color=theme.soft, va="center")
    axes, y = [], height - _TOP
    for panel in heights:
        y -= panel + _GAP
        width = _WIDTH - _LEFT - _RIGHT
        axis = figure.add_axes((_LEFT / _WIDTH, (y + 0.2) / height, width / _WIDTH, panel / height))
        axis.set_facecolor(theme.paper)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelsize=8.5, labelcolor=theme.soft, pad=6, labelbottom=False)
        axis.grid(axis="y", color=theme.line, linewidth=0.8)
        axis.set_axisbelow(True)
        axes.append(axis)
    return figure, axes


def draw_panel(axis: Axes, theme: Theme, title: str, x: np.ndarray, curves: Sequence[Curve], score: Score) -> None:
    """Draw curves over x into a panel, scaled to fit, with its title above and each curve's name at its end."""
    write_title(axis, theme, title)
    for curve in curves:
        places = np.flatnonzero(np.isfinite(curve.values))
        dots: dict[str, Any] = {"marker": "o", "markersize": 5} if len(places) == 1 else {}
        width = 2.0 if curve.colour == theme.val and len(x) <= 200 else 1.4  # a long curve is ragged enough
        axis.plot(x, curve.values, color=curve.colour, linewidth=width, solid_capstyle="round", **dots)
    _scale(axis, np.concatenate([curve.values for curve in curves]), score)
    ends = [
        curve.values[np.isfinite(curve.values)].max() if score is _RATE else _last(curve.values) for curve in curves
    ]
    for place, end, curve in zip(spread(axis, ends), ends, curves, strict=True):
        text = f"{curve.name} {score.text(end)}"
        weight = "bold" if curve.colour == theme.val else "normal"
        label(axis, theme, text, (1, place), (12, 0), size=9.5, weight=weight, colour=curve.colour)


def write_title(axis: Axes, theme: Theme, title: str) -> None:
    """Write a panel's title above it, flush with the heading."""
    label(axis, theme, title, (0, 1), (-(_LEFT - 0.3) * 72, 19), size=10.5, weight="bold", colour=theme.ink)


def label(
    axis: Axes,
    theme: Theme,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    *,
    over_data: bool = False,
    colour: str = "",
    **style: Any,
) -> None:
    """Write small words around a panel.

    Args:
        axis: the panel.
        theme: its colours.
        text: the words.
        at: x and y in shares of the panel; with ``over_data`` x is a value of the data.
        offset: from there, in points.
        over_data: see ``at``; the words are centred on it unless ``style`` says otherwise.
        colour: soft if not given.
        style: matplotlib's words for text.
    """
    axis.annotate(
        text,
        at,
        offset,
        xycoords=("data" if over_data else "axes fraction", "axes fraction"),
        textcoords="offset points",
        annotation_clip=False,
        **{
            "size": 8.5,
            "va": "center",
            "ha": "center" if over_data else "left",
            **style,
            "color": colour or theme.soft,
        },
    )


def _scale(axis: Axes, values: np.ndarray, score: Score) -> None:
    """Fit a panel's height to values, on a logarithmic scale where an error falls by more than a factor of 20."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    if score.is_error and low > 0 and high / low > 20:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.15, high * 1.15)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter("{x:g}")
        return
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    bottom, top = (0.0 if score is _RATE else low - room), high + room
    if score.is_share:
        bottom, top = max(bottom, -0.01), min(top, 1.01)
    axis.set_ylim(bottom, top)
    axis.yaxis.set_major_locator(MaxNLocator(2 if score is _RATE else 5, steps=[1, 2, 5, 10]))
    percent = PercentFormatter(1, decimals=0 if top - bottom > 0.05 else 2, symbol=" %")
    axis.yaxis.set_major_formatter(percent if score.is_share else plain)


def spread(axis: Axes, values: Sequence[float]) -> list[float]:
    """Return heights for labels beside values, in shares of the panel: near them, but a line apart and inside."""
    gap = 13 / 72 * axis.figure.dpi / axis.bbox.height  # 13 points
    places = [float(axis.transAxes.inverted().transform(axis.transData.transform((0, value)))[1]) for value in values]
    order = sorted(range(len(places)), key=places.__getitem__)
    for below, above in pairwise(order):
        short = gap - (places[above] - places[below])
        if short > 0:
            places[below] -= short / 2
            places[above] += short / 2
    return [min(max(place, 0.0), 1.0) for place in places]


def mark_epochs(axes: Sequence[Axes], theme: Theme, epochs: np.ndarray) -> None:
    """Give panels the same scale of epochs, with numbers below the last."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    is_single = len(epochs) == 1
    for axis in axes:
        axis.set_xlim(epochs[0] - 0.5 * is_single, epochs[-1] + 0.5 * is_single)
        whole = FixedLocator([epochs[0]]) if is_single else MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])
        axis.xaxis.set_major_locator(whole)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[-1].tick_params(labelbottom=True)
    axes[-1].spines["bottom"].set(visible=True, color=theme.soft, linewidth=0.8)
    label(axes[-1], theme, "epoch", (1, 0), (20, -11))


def mark_best(axes: Sequence[Axes], row: int, theme: Theme, epoch: float, value: float) -> None:
    """Draw a line through all panels at the best epoch, with its number above the first and a dot on its curve."""
    for axis in axes:
        axis.axvline(epoch, color=theme.val, linewidth=0.8, dashes=(2, 3), zorder=1)
    axes[row].plot([epoch], [value], "o", markersize=8, color=theme.val, markeredgecolor=theme.paper, clip_on=False)
    low, high = axes[0].get_xlim()
    is_left = (epoch - low) / (high - low) < 0.5
    text, side = f"best: epoch {epoch:,.0f}", "left" if is_left else "right"
    label(axes[0], theme, text, (epoch, 1), (0, 6), over_data=True, colour=theme.val, ha=side)
