"""The page that shows an evaluation: figures, charts, and the pictures that were furthest from right."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.evaluation.charts import draw_coverage, draw_numbers, draw_reliability
from resnetv2.evaluation.figures import FIGURES, read_figure
from resnetv2.evaluation.mistakes import Shown, find_mistakes
from resnetv2.pages.render import render_page
from resnetv2.shapes import count_parameters
from resnetv2.weights.modelfile import Header

CLASSES = 1_000  # rows of the table of classes
MATRIX = 30  # classes of a confusion matrix that is shown whole
PAIRS = 12  # of classes taken for each other


@dataclass(frozen=True)
class Figure:
    """A headline figure: its key in the report, its name, its value and interval as text.

    If it is a share, ``low`` and ``high`` are where its interval lies in 0 … 1.
    """

    key: str
    name: str
    value: str
    interval: str
    low: float | None = None
    high: float | None = None


def write_page(path: Path, shown: Shown) -> None:
    """Write an evaluation as a page.

    Args:
        path: the HTML file.
        shown: what to show; its pictures are only read.

    Raises:
        MissingExtra: jinja2 is not installed.
        Error: the file cannot be written.
    """
    report = shown.report
    render_page(
        path,
        "resnetv2.evaluation/page.html.j2",
        title=Path(report["model"]).name or "a model in memory",
        facts=model_facts(shown.header),
        commands=next_commands(report),
        **page_values(shown),
    )


def page_values(shown: Shown) -> dict[str, Any]:
    """Return what the pieces of ``parts.html.j2`` show of an evaluation."""
    report = shown.report
    classes = report.get("per_class", ())
    return {
        "report": report,
        "headline": headline_figures(report),
        "averages": [(name, report[name]) for name in ("macro", "weighted", "micro") if name in report],
        "charts": _charts(shown),
        "matrix": _matrix(report),
        "pairs": _pairs(report),
        "classes": classes[:CLASSES],
        "classes_left_out": len(classes) - len(classes[:CLASSES]),
        "mistakes": find_mistakes(shown),
    }


def headline_figures(report: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of a report that are defined, the most important first."""
    figures = []
    for key, name, form in FIGURES[report["task"]]:
        value, interval = read_figure(report, key)
        if value is None:
            continue
        bounds = tuple(interval) if interval and "%" in form else (None, None)
        text = " – ".join(map(form.format, interval)) if interval else ""
        figures.append(Figure(key, name, form.format(value), text, *bounds))
    return figures


def model_facts(header: Header) -> list[tuple[str, str]]:
    """Return what a model file says of itself, as pairs of words."""
    provenance = header.provenance
    data = provenance.get("data")
    facts = [
        ("network", f"{header.architecture.block} units {'·'.join(map(str, header.architecture.depths))}"),
        ("parameters", f"{count_parameters(header.architecture):,}"),
        ("pictures", f"{header.preprocessing.image_size} × {header.preprocessing.image_size} pixels"),
        ("task", header.task),
    ]
    facts += [(key.replace("_", " "), str(value)) for key, value in provenance.items() if isinstance(value, (str, int))]
    if isinstance(data, Mapping):
        facts += [(f"data: {key}", str(value)) for key, value in data.items() if isinstance(value, (str, int))]
    return facts


def _charts(shown: Shown) -> list[tuple[str, str, str]]:
    """Return of each chart its title, a sentence that says how to read it, and the SVG."""
    report = shown.report
    if report["task"] == "regression":
        chart = draw_numbers(shown.logits.reshape(-1).astype(np.float64), shown.index.labels.astype(np.float64))
        return [("Answers and targets", "On the dashed line, answers are right.", chart)]
    if report["task"] == "multilabel":
        return []
    return [
        (
            "Do probabilities mean what they say?",
            "Below the dashed line answers are less often right than they claim. Larger dots are more pictures.",
            draw_reliability(report["reliability"]),
        ),
        (
            "What if only sure answers count?",
            "From right to left, the least certain answers are withheld. The band is the 95 % interval.",
            draw_coverage(report["coverage"]),
        ),
    ]


def _matrix(report: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of the confusion matrix: each class, and each count with its share of the row."""
    confusion = report.get("confusion")
    if confusion is None or len(confusion) > MATRIX:
        return None
    rows = []
    for i, row in enumerate(confusion):
        total = sum(row)
        cells = [{"n": n, "share": n / total if total else 0.0, "right": i == j} for j, n in enumerate(row)]
        rows.append({"label": report["per_class"][i]["label"], "cells": cells})
    return rows


def _pairs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return which classes are most often taken for which others."""
    if not report.get("confusion"):
        return []
    counts = np.array(report["confusion"])
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    names = [entry["label"] for entry in report["per_class"]]
    places = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [
        {"label": names[i], "taken_for": names[j], "n": int(counts[i, j]), "share": counts[i, j] / totals[i]}
        for i, j in places
        if counts[i, j]
    ]


def next_commands(report: Mapping[str, Any], picture: str = "PICTURE_OR_FOLDER") -> list[tuple[str, str]]:
    """Return what one may do with the model next: why, and the command. ``picture`` is one to begin with."""
    if not report["model"]:
        return []
    model, data = shlex.quote(report["model"]), shlex.quote(report["data"])
    return [
        ("label pictures", f"resnetv2 predict {model} {picture}"),
        ("measure again", f"resnetv2 evaluate {model} {data} --split {report['split']}"),
        ("prove that the file is whole", f"resnetv2 verify {model}"),
        ("what the file says of itself", f"resnetv2 info {model}"),
    ]
