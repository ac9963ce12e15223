"""Evaluate a model on a split of data; every picture counts once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import check_policy, readable_index
from resnetv2.data.examine import examine_pictures
from resnetv2.data.index import Index, read_index
from resnetv2.data.load import Loader
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.metrics import classification_report
from resnetv2.evaluation.split import run_split
from resnetv2.inference import Classifier
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
        ``model``, ``data``, ``split`` and what ``classification_report`` gives: n, top1, top1_ci95, top5, per_class,
        confusion. Also ``skipped``: path and reason of each picture that was left out.

    Raises:
        ConfigError: batch_size below 1, an unknown ``on_bad_image``, or a network without a head.
        DataError: no such split, pictures of the run's list that are gone, other class names than the model's (both
            sets are listed), or an unreadable picture.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    check_policy(on_bad_image)
    index = read_index(Path(data))
    classifier = model if isinstance(model, Classifier) else Classifier.load(model, device, runtime, len(index.paths))
    if not classifier.classes:
        raise ConfigError(f"{model} has no head: it answers with features, not with labels")
    name = "" if isinstance(model, Classifier) else str(model)
    index, skipped = run_split(index, name, classifier.header.provenance, split)
    if on_bad_image == "skip":
        reasons = examine_pictures(index).reasons
        wanted = {i: reason for i, reason in reasons.items() if split in ("all", index.splits[i])}
        skipped += [{"path": index.paths[i], "reason": reason} for i, reason in wanted.items()]
        index = readable_index(index, reasons, on_bad_image)
    samples = match_classes(index, classifier.classes, wordnet(classifier.header)).split(split)
    logits = []
    done = 0
    for batch in Loader(samples, batch_size, classifier.header.preprocessing).batches():
        logits.append(classifier.answer(batch.pictures))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(samples))
    report = classification_report(np.concatenate(logits), samples.labels, classifier.classes)
    return {"model": name, "data": str(data), "split": split, **report, "skipped": skipped}


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
    return replace(index, labels=number[index.labels], classes=classes)


def wordnet(header: Header) -> tuple[str, ...]:
    """Return WordNet's synsets by index where the classes are ImageNet's, whose folders have these names."""
    labels = str(header.provenance.get("labels", ""))
    found = synsets(labels) if labels in IMAGENET else ()
    return found if len(found) == len(header.classes) else ()


def _list(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} … ({len(names)} in all)"
