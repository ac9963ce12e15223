"""The report of a finished run: a page that says what was trained on what and what came of it, and a model card."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import counting, printable, talk
from resnetv2.data.check import SEVERITIES
from resnetv2.data.index import Index
from resnetv2.data.splits import SPLITS
from resnetv2.diagnosis import FOLDS, find_suspects
from resnetv2.evaluation.answers import Pictures
from resnetv2.evaluation.mistakes import Shown, show_labels
from resnetv2.evaluation.page import model_facts, next_commands, page_values
from resnetv2.evaluation.run import assemble_report, measure
from resnetv2.explanation import quick_heat
from resnetv2.inference import Classifier, softmax
from resnetv2.pages.render import render_page
from resnetv2.training.card import make_card, write_card
from resnetv2.training.curves import draw_run
from resnetv2.training.record import Record, environment_facts, read_record, say_setting
from resnetv2.weights.modelfile import ModelFile, read_model_file

MISTAKES = 12  # pictures with heat maps: each costs a gradient or some
SUSPECTS = 12  # labels to look at that are shown; the rest are counted
_CLASSES = 60  # rows of the table of what was trained on
Known = Callable[[str], np.ndarray | None]  # a split -> logits (N, K) of its pictures, None where they are not known


def report_run(out: Path, index: Index, data: str | Path, device: str, known: Known) -> None:
    """Write the report of a finished run into its folder. The run is whole without: what goes wrong is one line.

    Args:
        out: the run's folder.
        index: the run's pictures, which are only read.
        data: what ``train`` was given.
        device: that measures.
        known: what the run knows of the best network's answers.
    """
    try:
        record = read_record(out, str(data))
        show_run(record, index, measure_held_out(record, index, device, known))
    except Exception as problem:  # noqa: BLE001  whatever it is, nobody may lose a run by it
        why = str(problem).partition("\n")[0] or type(problem).__name__
        talk().print(f"warning: the run is done, and its report was not written: {printable(why)}", soft_wrap=True)
    else:
        talk().print(f"report: {out / 'report.html'}", soft_wrap=True)


def show_run(record: Record, index: Index, shown: Shown) -> None:
    """Write ``report.html``, and ``README.md`` where there is none: who added to it, such as the licence, keeps that.

    Args:
        record: of the run.
        index: its pictures.
        shown: what was measured on those that were held out.

    Raises:
        MissingExtra: jinja2 is not installed.
        Error: a picture is gone, or a file cannot be written.
    """
    card = make_card(record, shown)
    (suspects, more), today = find_labels(shown), date.today()
    render_page(
        record.out / "report.html",
        "resnetv2.training/report.html.j2",
        card=card,
        written=f"{today.day} {today:%B %Y}",
        version=record.environment["resnetv2"],
        is_seen=shown.report["split"] == "val",
        curves=draw_run(record.history),
        suspects=suspects,
        suspects_left_out=more,
        data=data_values(record, index),
        settings=[(key, say_setting(value)) for key, value in record.config.items()],
        environment=environment_facts(record),
        commands=run_commands(record, index, shown),
        facts=model_facts(shown.header),
        **page_values(shown),
    )
    if not (record.out / "README.md").exists():
        write_card(record.out / "README.md", card)


def measure_held_out(record: Record, index: Index, device: str, known: Known) -> Shown:
    """Return the best network's answers to the test split, or where there is none to the validation split.

    They are what the run knows, else what the fastest runtime computes: the figures are those of ``evaluate``.
    """
    split = "test" if index.counts()["test"] else "val"
    held_out = index.take(np.flatnonzero(index.splits == split).tolist())
    file = read_model_file(record.model)
    asked = {"model": str(record.model), "data": record.data, "split": split, "tta": None}
    pictures, logits = Pictures(held_out, []), known(split)
    if logits is None:
        classifier = Classifier.from_file(file, device, count=len(held_out.paths))
        with counting(f"measuring on {split}") as progress:
            report, logits = measure(classifier, pictures, asked, progress=progress)
    else:
        report = assemble_report(file.header, pictures, asked, logits)
    return Shown(report, file.header, held_out, logits, _heat(file, device), MISTAKES)


def _heat(file: ModelFile, device: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return what shows where the network sees a class; PyTorch's session is opened for the first mistake."""
    open_once = cache(lambda: Classifier.from_file(file, device, "torch"))
    return lambda pixels, number: quick_heat(open_once(), pixels, number)


def find_labels(shown: Shown) -> tuple[list[dict[str, str]], int]:
    """Return held-out pictures whose labels look wrong to the network, which has not learnt from them.

    Also how many more there are than are shown.
    """
    labels = shown.index.labels
    there = np.unique(labels)
    if shown.header.task != "classification" or len(there) < 2:
        return [], 0
    probabilities = softmax(shown.logits)[:, there]
    places, suggested = find_suspects(probabilities, np.searchsorted(there, labels))
    said = [
        f"rather {shown.header.classes[there[j]]} ({probabilities[i, j]:.0%})"
        for i, j in zip(places[:SUSPECTS], suggested, strict=False)
    ]
    return show_labels(shown.index, places[:SUSPECTS].tolist(), said), len(places[SUSPECTS:])


# --- what was trained on ---


def data_values(record: Record, index: Index) -> dict[str, Any]:
    """Return what the page says of the pictures: how many, which list, what was found, whether splits leak."""
    classes = record.check["classes"]
    findings = record.check["findings"]
    return {
        "path": record.data,
        "sha256": index.digest(),
        "splits": {split: n for split, n in index.counts().items() if n},
        "findings": findings,
        "severities": {s: sum(f["severity"] == s for f in findings) for s in SEVERITIES},
        "leaks": record.leaks,
        "group_by": record.config["group_by"],
        "classes": list(classes.items())[:_CLASSES] if index.task != "regression" else [],
        "classes_left_out": max(0, len(classes) - _CLASSES),
        "largest": max((sum(counts.values()) for counts in classes.values()), default=0) or 1,
        "split_names": [s for s in SPLITS if index.counts()[s]],
    }


# --- what to do with it ---


def run_commands(record: Record, index: Index, shown: Shown) -> list[tuple[str, str]]:
    """Return what one may do with the model next: why, and a command that works where the run was started."""
    model, data = shlex.quote(str(record.model)), shlex.quote(record.data)
    picture = find_example(shown.index)
    commands = next_commands(shown.report, shlex.quote(picture))
    explained = shlex.quote(str(record.out / "explained"))
    commands.insert(2, ("see where it looks", f"resnetv2 explain {model} {shlex.quote(picture)} --out {explained}"))
    if index.task == "classification" and (np.bincount(index.labels) >= FOLDS).sum() > 1:
        page = shlex.quote(str(record.out / "labels.html"))
        commands.insert(
            3, ("find labels that look wrong, in training too", f"resnetv2 check {data} --model {model} --html {page}")
        )
    exported = shlex.quote(str(record.out / "model.onnx"))
    commands.append(("hand it to another program", f"resnetv2 export {model} --to onnx --out {exported}"))
    if record.config["on_bad_image"] == "error":
        return commands
    readers = ("resnetv2 evaluate", "resnetv2 check")  # that refuse what the run left out
    return [(why, f"{line} --on-bad-image skip" if line.startswith(readers) else line) for why, line in commands]


def find_example(index: Index) -> str:
    """Return a picture that can be named on a command line, "PICTURE" where there is none."""
    if index.shards is not None:
        return "PICTURE"
    paths = (str(index.root / path) for path in index.paths)
    return next((path for path in paths if printable(path) == path), "PICTURE")
