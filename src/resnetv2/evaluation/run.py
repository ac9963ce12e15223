"""A model on a split of data; every picture counts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import check_policy
from resnetv2.data.index import refuse_inside
from resnetv2.errors import ConfigError
from resnetv2.evaluation.abstention import abstention_report, tell_abstention
from resnetv2.evaluation.answers import Pictures, ask, ask_with_distances, find_pictures
from resnetv2.evaluation.classification import classification_report
from resnetv2.evaluation.mistakes import Shown
from resnetv2.evaluation.multilabel import multilabel_report
from resnetv2.evaluation.page import write_page
from resnetv2.evaluation.regression import regression_report
from resnetv2.explanation import quick_heat, takes_gradients
from resnetv2.inference import Classifier, read_model
from resnetv2.pages.render import check_page
from resnetv2.runtime.choice import AUTO
from resnetv2.weights.calibration import Calibration
from resnetv2.weights.modelfile import Header, ModelFile


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    split: str = "test",
    batch_size: int = 32,
    device: str = "auto",
    runtime: str = AUTO,
    on_bad_image: str = "error",
    tta: str | None = None,
    html: str | Path | None = None,
    progress: Counter | None = None,
) -> dict[str, Any]:
    """Measure a classifier on one split.

    Args:
        model: a model file, an artefact, or a loaded classifier.
        data: a folder ``root/{train,val,test}/class/*`` or ``root/class/*``, a CSV manifest, or a packed folder. For
            networks with ImageNet's classes, these may be WordNet's synsets such as "n01440764". Where it is what the
            model was trained on, the split is that of the run's ``index.csv`` beside the model.
        split: "train", "val", "test", or "all" of them.
        batch_size: pictures at a time; the figures do not depend on it.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.
        on_bad_image: "error" to refuse pictures that cannot be read, "skip" to leave them out.
        tta: several views of each picture, over which probabilities (of a number: the answers) are averaged: "flip",
            the picture and its mirror image; "five-crop", the middle and the corners of the central square.
        html: a page to write that shows the figures, with the pictures that were furthest from right.
        progress: called with the pictures done and the total.

    Returns:
        ``model``, ``data``, ``split``, ``tta``, ``task`` and what ``classification_report``, ``multilabel_report`` or
        ``regression_report`` gives. Also ``skipped``: path and reason of each picture that was left out. The
        probabilities of a calibrated model are its calibrated ones, and ``abstention`` is what ``abstention_report``
        gives with a sentence, ``note``; it is None of other models. With ``tta`` it is of the views' mean, which the
        promises of a calibration do not cover: the note says so.

    Raises:
        ConfigError: batch_size below 1, an unknown ``on_bad_image`` or ``tta``, a network without a head, or ``html``
            lies inside the data or does not end in .html.
        DataError: no such split, pictures of the run's list that are gone, other class names than the model's (both
            sets are listed), or an unreadable picture.
        MissingExtra: jinja2 is needed for ``html`` and not installed.
        Error: ``html`` cannot be written.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    check_policy(on_bad_image)
    if html is not None:
        check_page(html)
        refuse_inside(html, Path(data))
    loaded = model if isinstance(model, Classifier) else read_model(model)
    name = "" if isinstance(model, Classifier) else str(model)
    pictures = find_pictures(loaded.header, name, data, split, on_bad_image)
    samples = pictures.samples
    classifier = (
        loaded if isinstance(loaded, Classifier) else Classifier.from_file(loaded, device, runtime, len(samples))
    )
    asked = {"model": name, "data": str(data), "split": split, "tta": tta}
    report, logits = measure(classifier, pictures, asked, batch_size, progress)
    if html is not None:
        if not takes_gradients(classifier) and isinstance(loaded, ModelFile) and find_spec("torch"):
            classifier = Classifier.from_file(loaded, device, "torch")
        write_page(Path(html), Shown(report, loaded.header, pictures.index, logits, heat_of(classifier)))
    return report


def measure(
    classifier: Classifier,
    pictures: Pictures,
    asked: Mapping[str, Any],
    batch_size: int = 32,
    progress: Counter | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the report of a classifier on pictures, and its logits (N, K).

    Args:
        classifier: the model.
        pictures: of one split.
        asked: "model", "data", "split" and "tta", as the report has them.
        batch_size: pictures at a time.
        progress: called with the pictures done and the total.
    """
    header, samples, tta = classifier.header, pictures.samples, asked["tta"]
    if header.calibration is None:
        logits, abstention = ask(classifier, samples, batch_size=batch_size, tta=tta, progress=progress), None
    else:
        logits, distances = ask_with_distances(classifier, samples, batch_size=batch_size, tta=tta, progress=progress)
        abstention = _abstention(logits, distances, pictures, header.calibration, tta)
    return assemble_report(header, pictures, asked, logits, abstention), logits


def assemble_report(
    header: Header,
    pictures: Pictures,
    asked: Mapping[str, Any],
    logits: np.ndarray,
    abstention: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of logits (N, K) to pictures; ``asked`` as in ``measure``."""
    figures = make_report(header.task, logits, pictures.samples.labels, header.classes)
    rest = {"abstention": abstention, "skipped": pictures.skipped}
    return {**asked, "task": header.task, **figures, **rest}


def make_report(task: str, logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a task; see ``classification_report``, ``multilabel_report``, ``regression_report``."""
    if task == "regression":
        return regression_report(logits, labels)
    return (multilabel_report if task == "multilabel" else classification_report)(logits, labels, classes)


def _abstention(
    logits: np.ndarray, distances: np.ndarray, pictures: Pictures, calibration: Calibration, tta: str | None
) -> dict[str, Any]:
    found = abstention_report(logits, pictures.samples.labels, distances, calibration)
    same = pictures.index.digest() == calibration.data
    return found | {"note": tell_abstention(found, calibration, same, tta is not None)}


def heat_of(classifier: Classifier) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """Return what shows where the network sees a class, None where there are no gradients to tell it from."""
    return partial(quick_heat, classifier) if takes_gradients(classifier) else None
