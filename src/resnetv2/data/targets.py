"""What a picture's label says, as text in a list and as numbers: one class, any of several, or a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from resnetv2.data.names import is_text
from resnetv2.errors import DataError

SEPARATOR = "|"  # of the classes of a picture that may have several
_SHOWN = 10
_LARGEST = 1e37  # of a target: the network computes in float32
_DIGITS = 4300  # of a number: more are text to Python


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which numbers inside names count as numbers: "2" before "10", "img9" before "img10".

    Different names have different keys ("1" and "01"), so that no order depends on where the names came from.
    """
    parts = [
        (0, int(part), "") if part.isdecimal() and len(part) <= _DIGITS else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
    return [*parts, (-1, 0, name)]


def split_label(label: str) -> list[str]:
    """Return the classes that "cat | dog" names, spaces around them left out, each once."""
    return list(dict.fromkeys(name for name in map(str.strip, label.split(SEPARATOR)) if name))


def misread(task: str, label: str) -> str:
    """Return why a label cannot be read, or ""; only pictures that may have several classes may have none."""
    if task == "regression":
        return "" if _is_number(label) else f"the target {label!r} is no number from -{_LARGEST:g} to {_LARGEST:g}"
    return "" if label or task == "multilabel" else "the label is empty"


def encode_labels(task: str, labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn texts into what a loss takes.

    Args:
        task: "classification", "multilabel" or "regression".
        labels: n texts, none of which ``misread`` complains of.

    Returns:
        Class indices, int64 (n,); for "multilabel", 0 and 1, uint8 (n, classes); for "regression", float64 (n,). And
        the class names, sorted by ``natural_key``; for "regression" the one name "target".

    Raises:
        DataError: class names that are no UTF-8 text.
    """
    if task == "regression":
        return np.array([float(text) for text in labels], np.float64), ("target",)
    named = [split_label(text) for text in labels] if task == "multilabel" else [[text] for text in labels]
    names = {name for some in named for name in some}
    nameless = sorted(name for name in names if not is_text(name))
    if nameless:  # they could not be printed, nor sent as JSON
        raise DataError("class names that are no UTF-8 text; rename them: " + ", ".join(map(repr, nameless[:_SHOWN])))
    classes = tuple(sorted(names, key=natural_key))
    number = {name: i for i, name in enumerate(classes)}
    if task == "classification":
        return np.array([number[text] for text in labels], np.int64), classes
    marks = np.zeros((len(labels), len(classes)), np.uint8)
    for row, some in zip(marks, named, strict=True):
        row[[number[name] for name in some]] = 1
    return marks, classes


def class_names(task: str, labels: np.ndarray, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the classes that each picture has; for "regression" the one name of what is measured."""
    if task == "multilabel":
        return [tuple(classes[i] for i in np.flatnonzero(row).tolist()) for row in labels]
    single: list[tuple[str, ...]] = [(name,) for name in classes]  # shared: a million tuples would fill the memory
    return [single[i] for i in labels.tolist()] if task == "classification" else single * len(labels)


def label_text(task: str, label: np.ndarray, classes: Sequence[str]) -> str:
    """Return the text of one picture's label, which ``encode_labels`` takes."""
    if task == "regression":
        return repr(float(label))
    if task == "classification":
        return classes[int(label)]
    return SEPARATOR.join(classes[i] for i in np.flatnonzero(label).tolist())


def renumber_classes(task: str, labels: np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """Return labels among ``size`` classes of which ``numbers`` (classes,) are those that they had."""
    if task == "classification":
        result: np.ndarray = numbers[labels]
        return result
    marks = np.zeros((len(labels), size), labels.dtype)
    marks[:, numbers] = labels
    return marks


def count_classes(task: str, labels: np.ndarray, size: int) -> np.ndarray:
    """Return how many pictures have each class, int64 (size,); for "regression" how many there are."""
    if task == "multilabel":
        counts: np.ndarray = labels.sum(axis=0, dtype=np.int64)
        return counts
    return np.bincount(labels, minlength=size) if task == "classification" else np.array([len(labels)])


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and abs(float(text)) <= _LARGEST
    except ValueError:
        return False
