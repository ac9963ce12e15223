"""Evaluate a model on a split of data; every picture counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import check_policy, readable_index
from resnetv2.data.examine import examine_pictures
from resnetv2.data.index import Index, read_index
from resnetv2.data.load import Loader
from resnetv2.data.targets import renumber_classes
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.classification import classification_report
from resnetv2.evaluation.multilabel import multilabel_report
from resnetv2.evaluation.regression import regression_report
from resnetv2.evaluation.split import run_split
from resnetv2.inference import Classifier, read_model
from resnetv2.runtime.choice import AUTO
from resnetv2.weights.labels import IMAGENET, synsets
from resnetv2.weights.modelfile import Header


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    split: str = "test",
    batch_size: int = 32,
    device: str = "auto",
    runtime: str = AUTO,
    on_bad_image: str = "error",
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
        progress: called with the pictures done and the total.

    Returns:
        ``model``, ``data``, ``split``, ``task`` and what ``classification_report``, ``multilabel_report`` or
        ``regression_report`` gives. Also ``skipped``: path and reason of each picture that was left out.

    Raises:
        ConfigError: batch_size below 1, an unknown ``on_bad_image``, or a network without a head.
        DataError: no such split, pictures of the run's list that are gone, other class names than the model's (both
            sets are listed), or an unreadable picture.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    check_policy(on_bad_image)
    loaded = model if isinstance(model, Classifier) else read_model(model)
    if not loaded.header.classes:
        raise ConfigError(f"{model} has no head: it answers with features, not with labels")
    name = "" if isinstance(model, Classifier) else str(model)
    index, skipped = read_labelled(data, loaded.header, name, split)
    if on_bad_image == "skip":
        reasons = examine_pictures(index).reasons
        wanted = {i: reason for i, reason in reasons.items() if split in ("all", index.splits[i])}
        skipped += [{"path": index.paths[i], "reason": reason} for i, reason in wanted.items()]
        index = readable_index(index, reasons, on_bad_image)
    samples = index.split(split)
    if not isinstance(loaded, Classifier):
        loaded = Classifier.from_file(loaded, device, runtime, len(samples))
    logits = []
    done = 0
    for batch in Loader(samples, batch_size, loaded.header.preprocessing).batches():
        logits.append(loaded.answer(batch.pictures))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(samples))
    task = loaded.header.task
    report = make_report(task, np.concatenate(logits), samples.labels, loaded.classes)
    return {"model": name, "data": str(data), "split": split, "task": task, **report, "skipped": skipped}


def read_labelled(
    data: str | Path, header: Header, model: str = "", split: str = "test"
) -> tuple[Index, list[dict[str, str]]]:
    """Read data with its labels as a network of this header numbers them.

    Args:
        data: as ``evaluate`` takes it.
        header: the network's.
        model: its path; where ``data`` is what it was trained on, the run's list beside it tells the splits.
        split: which is wanted.

    Returns:
        The index, and path and reason of each picture that the run had left out.
    """
    index, skipped = run_split(read_index(Path(data), task=header.task), model, header.provenance, split)
    return index if header.task == "regression" else match_classes(index, header.classes, _wordnet(header)), skipped


def make_report(task: str, logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a task; see ``classification_report``, ``multilabel_report``, ``regression_report``."""
    if task == "regression":
        return regression_report(logits, labels)
    return (multilabel_report if task == "multilabel" else classification_report)(logits, labels, classes)


def match_classes(index: Index, classes: tuple[str, ...], aliases: tuple[str, ...] = ()) -> Index:
    """Return the index with its labels numbered as the model numbers its classes, matched by name.

    Data may lack some of the model's classes, but not the other way round. ``aliases`` are second names by index, such
    as WordNet's synsets.
    """
    numbers = {name: i for names in (aliases, classes) for i, name in enumerate(names)}
    strangers = [name for name in index.classes if name not in numbers]
    if strangers:
        raise DataError(
            f"the data has classes that the model does not know: {_list(strangers)}; "
            f"the model knows {_list(classes)}; the data has {_list(index.classes)}"
        )
    number = np.array([numbers[name] for name in index.classes], np.int64)
    return replace(index, labels=renumber_classes(index.task, index.labels, number, len(classes)), classes=classes)


def _wordnet(header: Header) -> tuple[str, ...]:
    """Return WordNet's synsets by index where the classes are ImageNet's, whose folders have these names."""
    labels = str(header.provenance.get("labels", ""))
    found = synsets(labels) if labels in IMAGENET else ()
    return found if len(found) == len(header.classes) else ()


def _list(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} … ({len(names)} in all)"
