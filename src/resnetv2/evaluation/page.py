"""The page that shows an evaluation: figures, charts, and the pictures that were furthest from right."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnetv2.data.index import Index
from resnetv2.errors import DataError
from resnetv2.evaluation.charts import draw_coverage, draw_numbers, draw_reliability
from resnetv2.evaluation.figures import FIGURES
from resnetv2.explanation import overlay
from resnetv2.inference import sigmoid, softmax
from resnetv2.pages.render import render_page, to_address
from resnetv2.preprocess import open_picture
from resnetv2.shapes import count_parameters
from resnetv2.weights.modelfile import Header

MISTAKES = 24  # pictures shown
CLASSES = 1_000  # rows of the table of classes
MATRIX = 30  # classes of a confusion matrix that is shown whole
PAIRS = 12  # of classes taken for each other
_SIDE = 144  # pixels of a thumbnail, shown at half the size on fine screens
_LEAST = 1e-300


@dataclass(frozen=True)
class Shown:
    """What a page is made of: the report of ``evaluate``, the model's header, the pictures, and the logits (N, K).

    ``heat`` turns what the network sees, uint8 (H, W, 3), and a class into where it saw it, float32 (H, W).
    """

    report: Mapping[str, Any]
    header: Header
    index: Index
    logits: np.ndarray
    heat: Callable[[np.ndarray, int], np.ndarray] | None = None


@dataclass(frozen=True)
class Figure:
    """A headline figure: its name, value and interval as text, and where they lie in 0 … 1 if it is a share."""

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
        "resnetv2.evaluation",
        "page.html.j2",
        report=report,
        title=Path(report["model"]).name or "a model in memory",
        headline=headline_figures(report),
        averages=[(name, report[name]) for name in ("macro", "weighted", "micro") if name in report],
        charts=_charts(shown),
        matrix=_matrix(report),
        pairs=_pairs(report),
        classes=report.get("per_class", ())[:CLASSES],
        has_ranks=report["task"] != "regression",
        mistakes=_mistakes(shown),
        facts=model_facts(shown.header),
        commands=_commands(report),
    )


def headline_figures(report: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of a report that are defined, the most important first."""
    figures = []
    for key, name, form in FIGURES[report["task"]]:
        value, interval = report[key], report.get(f"{key}_ci95")
        if value is None:
            continue
        bounds = tuple(interval) if interval and "%" in form else (None, None)
        text = " – ".join(map(form.format, interval)) if interval else ""
        figures.append(Figure(name, form.format(value), text, *bounds))
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


# --- the pictures that were furthest from right ---


def _mistakes(shown: Shown) -> list[dict[str, str]]:
    """Return thumbnails of the worst mistakes, each with what was said and what is so."""
    badness, tell = _TELLERS[shown.header.task](shown)
    order = np.argsort(-badness, kind="stable")[:MISTAKES]
    places = [int(i) for i in order if badness[i] > 0]
    samples = shown.index.split("all")
    result = []
    for i in places:
        said, so = tell(i)
        try:
            picture = open_picture(samples.paths[i])
        except DataError:  # it is gone by now
            picture = Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
        seen = _seen(shown, picture, i)
        picture.thumbnail((_SIDE, _SIDE))
        entry = {"path": shown.index.paths[i], "said": said, "so": so, "picture": to_address(picture), "seen": seen}
        result.append(entry)
    return result


def _seen(shown: Shown, picture: Image.Image, i: int) -> str:
    """Return the picture with the heat of what was answered, "" where that cannot be told."""
    if shown.heat is None or shown.header.task != "classification":
        return ""
    pixels = np.array(shown.header.preprocessing(picture))
    heated = overlay(pixels, shown.heat(pixels, int(shown.logits[i].argmax())))
    return to_address(heated.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _tell_class(shown: Shown) -> tuple[np.ndarray, Any]:
    labels, classes, logits = shown.index.labels, shown.header.classes, shown.logits
    said = logits.argmax(axis=1)
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    # of the wrong answers, how much likelier the answer was taken to be than the truth; the logarithm of it
    badness = np.where(said == labels, 0.0, np.maximum(logits.max(axis=1) - true, np.finfo(np.float32).tiny))

    def tell(i: int) -> tuple[str, str]:
        p = softmax(logits[i : i + 1])[0]
        return f"{classes[said[i]]} {p[said[i]]:.1%}", f"{classes[labels[i]]} {p[labels[i]]:.1%}"

    return badness, tell


def _tell_labels(shown: Shown) -> tuple[np.ndarray, Any]:
    truth, classes, p = shown.index.labels.astype(bool), shown.header.classes, sigmoid(shown.logits)
    answers = shown.logits >= 0
    right = np.where(truth, p, sigmoid(-shown.logits))
    surprise = -np.log(np.maximum(right, _LEAST)).max(axis=1)
    badness = np.where((answers == truth).all(axis=1), 0.0, surprise)

    def tell(i: int) -> tuple[str, str]:
        wrong, missed = (_names(classes, mask) for mask in (answers[i] & ~truth[i], truth[i] & ~answers[i]))
        return f"not there: {wrong}" if wrong else "", f"missed: {missed}" if missed else ""

    return badness, tell


def _tell_number(shown: Shown) -> tuple[np.ndarray, Any]:
    answers, targets = shown.logits.reshape(-1), shown.index.labels
    return np.abs(answers - targets), lambda i: (f"{answers[i]:.4g}", f"{targets[i]:.4g}")


_TELLERS = {"classification": _tell_class, "multilabel": _tell_labels, "regression": _tell_number}


def _names(classes: Sequence[str], mask: np.ndarray) -> str:
    return ", ".join(classes[i] for i in np.flatnonzero(mask).tolist())


def _commands(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what one may do with the model next: why, and the command."""
    if not report["model"]:
        return []
    model, data = shlex.quote(report["model"]), shlex.quote(report["data"])
    return [
        ("label pictures", f"resnetv2 predict {model} PICTURE_OR_FOLDER"),
        ("measure again", f"resnetv2 evaluate {model} {data} --split {report['split']}"),
        ("prove that the file is whole", f"resnetv2 verify {model}"),
        ("what the file says of itself", f"resnetv2 info {model}"),
    ]
