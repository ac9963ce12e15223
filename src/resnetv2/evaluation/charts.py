"""Charts as SVG for our pages: their colours are the page's, light or dark. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 28, 42
_MOST_DOTS = 2_000


@dataclass(frozen=True)
class Plane:
    """What a chart's axes run over, low and high, what they are called, and how their numbers are written.

    ``x_ticks`` and ``y_ticks`` are the numbers that stand there, round ones if there are none; with ``y_log`` equal
    steps upwards are equal factors. ``size`` is its width and height, in units of which letters have about eleven.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    y_name: str
    form: Callable[[float], str]
    x_form: Callable[[float], str] | None = None  # None: as y
    x_ticks: Sequence[float] | None = None
    y_ticks: Sequence[float] | None = None
    y_log: bool = False
    size: tuple[int, int] = (400, 300)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in SVG's units."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        low, high, y = (math.log(v) if self.y_log else v for v in (*self.y, y))
        up = (y - low) / (high - low)
        return round(_LEFT + across * (self.size[0] - _LEFT - _RIGHT), 1), round(
            self.size[1] - _BOTTOM - up * self._tall(), 1
        )

    def draw(self, title: str, *marks: str) -> str:
        """Return the chart: grid, numbers, names, and marks above them; ``title`` is for those who do not see it."""
        lines = [*self._grid(), *marks]
        bottom, right = self.size[1] - _BOTTOM, self.size[0] - _RIGHT
        lines.append(f'<text class="name" x="{right}" y="{bottom + 34}" text-anchor="end">{escape(self.x_name)}</text>')
        lines.append(f'<text class="name" x="0" y="10">{escape(self.y_name)}</text>')
        head = (
            f'<svg class="chart" viewBox="0 0 {self.size[0]} {self.size[1]}" role="img"><title>{escape(title)}</title>'
        )
        return "\n".join([head, *lines, "</svg>"])

    def line(self, points: Iterable[tuple[float, float]], kind: str) -> str:
        """Return a line through points."""
        return f'<polyline class="{kind}" points="{self._places(points)}"/>'

    def band(self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]]) -> str:
        """Return the area between two lines."""
        return f'<polygon class="band" points="{self._places([*lower, *reversed(upper)])}"/>'

    def dot(self, x: float, y: float, radius: float, note: str = "", kind: str = "dot") -> str:
        """Return a dot; ``note`` is shown when one points at it."""
        cx, cy = self.at(x, y)
        inside = f"<title>{escape(note)}</title>" if note else ""
        return f'<circle class="{kind}" cx="{cx}" cy="{cy}" r="{radius:.1f}">{inside}</circle>'

    def legend(self, names: Mapping[str, str]) -> list[str]:
        """Return the names of lines, by kind, above the chart at its right."""
        words = "&#8195;".join(f'<tspan class="{kind}">{escape(name)}</tspan>' for kind, name in names.items())
        return [f'<text class="legend" x="{self.size[0] - _RIGHT}" y="10" text-anchor="end">{words}</text>']

    def _places(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(",".join(f"{v:g}" for v in self.at(*point)) for point in points)

    def _tall(self) -> int:
        return self.size[1] - _TOP - _BOTTOM

    def _grid(self) -> list[str]:
        lines = []
        for value in self.y_ticks or _round_steps(*self.y):
            x, y = self.at(self.x[0], value)
            lines.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{self.size[0] - _RIGHT}" y2="{y}"/>')
            lines.append(f'<text x="{x - 7}" y="{y + 3.5}" text-anchor="end">{self.form(value)}</text>')
        for value in self.x_ticks or _round_steps(*self.x):
            x, y = self.at(value, self.y[0])
            lines.append(f'<text x="{x}" y="{y + 17}" text-anchor="middle">{(self.x_form or self.form)(value)}</text>')
        return lines


def draw_reliability(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the reliability diagram of ``reliability_curve``: what was so by what was said, with 95 % intervals."""
    plane = Plane((0, 1), (0, 1), "probability of the answer", "share of right answers", _percent)
    most = max(line["n"] for line in curve)
    marks = [plane.line([(0, 0), (1, 1)], "ideal")]
    for line in curve:
        x, (low, high) = line["confidence"], line["accuracy_ci95"]
        marks.append(plane.line([(x, low), (x, high)], "whisker"))
        note = f"{x:.1%} said, {line['accuracy']:.1%} right, n = {line['n']:,}"
        marks.append(plane.dot(x, line["accuracy"], 2.5 + 5 * (line["n"] / most) ** 0.5, note))
    return plane.draw("Reliability: the share of right answers by their probability", *marks)


def draw_coverage(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the chart of ``coverage_curve``: how often answers are right when only the surest are given."""
    bounds = [line["accuracy_ci95"] for line in curve]
    points = [(line["coverage"], line["accuracy"]) for line in curve]
    floor = max(0.0, min(low for low, _ in bounds[len(bounds) // 4 :]) - 0.02)
    plane = Plane((0, 1), (floor, 1), "share of pictures answered", "share of right answers", _percent)
    lower = [(x, max(floor, low)) for (x, _), (low, _) in zip(points, bounds, strict=True)]
    upper = [(x, high) for (x, _), (_, high) in zip(points, bounds, strict=True)]
    visible = [(x, max(floor, y)) for x, y in points]
    marks = [plane.band(lower, upper), plane.line(visible, "curve"), plane.dot(*visible[-1], 4)]
    return plane.draw("Coverage: the share of right answers when only the surest are given", *marks)


def draw_numbers(answers: np.ndarray, targets: np.ndarray) -> str:
    """Return answers float (N,) over targets float (N,), at most 2,000 of them, and the line of agreement."""
    low, high = float(min(answers.min(), targets.min())), float(max(answers.max(), targets.max()))
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    span = (low - room, high + room)
    plane = Plane(span, span, "target", "answer", "{:.4g}".format)
    chosen = np.unique(np.linspace(0, len(targets) - 1, _MOST_DOTS).round().astype(int)).tolist()
    dots = [plane.dot(float(targets[i]), float(answers[i]), 2.2) for i in chosen]
    return plane.draw("Answers over targets", plane.line([(span[0], span[0]), (span[1], span[1])], "ideal"), *dots)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _round_steps(low: float, high: float) -> list[float]:
    """Return four to eight round numbers from low to high."""
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [i * step for i in range(first, last + 1)]
