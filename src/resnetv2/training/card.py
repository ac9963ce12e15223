"""The model card of a run: what the model is, what it is for and what speaks against it, as Markdown for the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from resnetv2.console import printable
from resnetv2.errors import ConfigError
from resnetv2.evaluation.mistakes import Shown
from resnetv2.evaluation.page import Figure, headline_figures
from resnetv2.files import replace_file
from resnetv2.training.record import Record, name_architecture, training_facts
from resnetv2.weights import catalogue

_NAMED = 20  # classes told by name; the model file has them all
_HUB = {  # of each task: the hub's word for it, tags, and its words for figures
    "classification": (
        "image-classification",
        (),
        {
            "top1": "accuracy",
            "top5": "top_5_accuracy",
            "balanced_accuracy": "balanced_accuracy",
            "log_loss": "log_loss",
        },
    ),
    "multilabel": ("image-classification", ("multi-label",), {"map": "mean_average_precision"}),
    "regression": ("image-regression", ("image-regression",), {"mae": "mae", "rmse": "rmse", "r2": "r_squared"}),
}
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")


@dataclass(frozen=True)
class Section:
    """A part of a card: a heading, sentences that are plain text, and figures or commands below them."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """What a model card is made of.

    Attributes:
        title: of the model.
        report: of ``evaluate``, on the pictures that the figures are of.
        figures: the headline ones.
        sections: the text.
        commands: what one may do with the model in the folder of the card: why, and the command.
        facts: of the data and the training, as pairs of words.
        base: published weights that training started from, on the hub; "" if there are none.
        data: its name.
        has_curves: whether ``curves.png`` lies beside the card.
    """

    title: str
    report: Mapping[str, Any]
    figures: Sequence[Figure]
    sections: Sequence[Section]
    commands: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, str]]
    base: str
    data: str
    has_curves: bool


def make_card(record: Record, shown: Shown) -> Card:
    """Return the card of a run's model."""
    report, weights = shown.report, record.config["weights"]
    licence, base = _licence(weights)
    architecture = name_architecture(shown.header.architecture)
    origin = f"trained from {weights}" if weights else "trained from scratch"
    what = (
        f"{record.model.name} is a {architecture} (a pre-activation ResNet), {origin} by resnetv2 "
        f"{record.environment['resnetv2']} {_say_task(shown)}."
    )
    side = shown.header.preprocessing.image_size
    use = f"Pictures like those it was trained on, {record.data_name}, which it sees in {side} × {side} pixels of RGB."
    others = "On any others, measure it first: resnetv2 evaluate takes labelled pictures of yours."
    lent = f" The starting weights {weights} are under: {licence}." if licence else ""
    unknown = (
        "Unknown: nobody has said under which licence the pictures may be used, and so what a network that learnt from "
        f"them may be used for.{lent} Say it at the head of README.md before the model is published."
    )
    return Card(
        title=f"{architecture} on {record.data_name}",
        report=report,
        figures=headline_figures(report),
        sections=(
            Section("What it is", (what,)),
            Section("What it is for", (use, others)),
            Section("What speaks against it", tuple(_doubts(record, shown))),
            Section("Licence", (unknown,)),
        ),
        commands=[
            ("label a picture", f"resnetv2 predict {record.model.name} PICTURE"),
            ("prove that the file is whole", f"resnetv2 verify {record.model.name}"),
            ("what the file says of itself", f"resnetv2 info {record.model.name}"),
        ],
        facts=training_facts(record, shown.header),
        base=base,
        data=record.data_name,
        has_curves=(record.out / "curves.png").exists(),
    )


def _say_task(shown: Shown) -> str:
    classes = shown.header.classes
    if shown.header.task == "regression":
        return f"to answer a picture with a number, {classes[0]}"
    kind = "to tell {} classes apart" if shown.header.task == "classification" else "to name which of {} classes it has"
    return f"{kind.format(f'{len(classes):,}')}: {_list_names(classes)}"


def _doubts(record: Record, shown: Shown) -> list[str]:
    """Return sentences that say what the figures do not."""
    report, sentences = shown.report, []
    if report["split"] == "val":
        sentences.append(
            "There was no test split: the figures are of the validation pictures, by which the best epoch was chosen, "
            "and flatter a little."
        )
    if record.leaks:
        sentences.append("Pictures are in several splits, by which the figures flatter: see the data.")
    worst = min(
        (line for line in report.get("per_class", ()) if line["recall"] is not None),
        key=lambda line: line["recall"],
        default=None,
    )
    if worst is not None and worst["recall"] < 1:
        sentences.append(
            f"It is weakest on {printable(worst['label'])}: {worst['recall']:.1%} of {worst['n']:,} are found."
        )
    if report["task"] == "classification":
        sentences.append("It answers every picture with one of its classes, also one that shows none of them.")
    if report.get("note"):
        sentences.append(report["note"])
    sentences.append("How it does on pictures from elsewhere, or of some people and not of others, was not measured.")
    return sentences


def _licence(weights: str | None) -> tuple[str, str]:
    """Return the licence of published starting weights and their repository on the hub, "" where unknown."""
    if weights is None:
        return "", ""
    try:
        found = catalogue.card(weights)
    except ConfigError:  # a model file of somebody's
        return "", ""
    return found.licence, next((file.repo for file in found.files if file.repo), "") or ""


# --- the card as Markdown ---


def write_card(path: Path, card: Card) -> None:
    """Write a card as Markdown with the front matter that Hugging Face's hub reads.

    Raises:
        Error: the file cannot be written.
    """
    lines = ["---", front_matter(card).to_yaml().strip(), "---", "", f"# {_plain(card.title)}", ""]
    for section in card.sections:
        lines += [f"## {section.title}", "", " ".join(map(_plain, section.sentences)), ""]
    lines += [f"## Figures on {card.report['n']:,} pictures of the {card.report['split']} split", ""]
    rows = [(figure.name, figure.value, figure.interval or "–") for figure in card.figures]
    lines += [*_table(("figure", "value", "95 % interval"), rows), ""]
    lines += ["## Training", "", *_table(("what", "value"), card.facts), ""]
    if card.has_curves:
        lines += ["![Score, loss and learning rate over the epochs](curves.png)", ""]
    lines += ["## Use", "", "```sh", 'pip install "resnetv2"']
    width = max(len(command) for _, command in card.commands)
    lines += [*(f"{printable(command):<{width}}  # {why}" for why, command in card.commands), "```", ""]
    with replace_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")


def front_matter(card: Card) -> ModelCardData:
    """Return what the hub reads of a card. Its licence is "unknown": nobody has said under which the pictures are."""
    task, tags, words = _HUB[card.report["task"]]
    named = {figure.key: figure.name for figure in card.figures}
    results = [
        EvalResult(
            task_type=task,
            dataset_type="imagefolder",
            dataset_name=printable(card.data),
            dataset_split=card.report["split"],
            metric_type=word,
            metric_name=named[key],
            metric_value=round(card.report[key], 6),
        )
        for key, word in words.items()
        if key in named
    ]
    return ModelCardData(
        base_model=card.base or None,
        license="unknown",
        library_name="resnetv2",
        pipeline_tag=task if card.report["task"] != "regression" else None,
        tags=["resnetv2", "resnet", "pre-activation", *tags],
        metrics=[word for key, word in words.items() if key in named],
        model_name=printable(card.title),
        eval_results=results or None,
    )


def _list_names(names: Sequence[str]) -> str:
    """Return names in a sentence, at most twenty of them."""
    shown = ", ".join(map(printable, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} … ({len(names):,} in all)"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(map(_plain, row)) for row in (head, *rows)]
    return [f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])]


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", printable(text))
