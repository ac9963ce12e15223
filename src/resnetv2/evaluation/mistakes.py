"""The pictures that were furthest from right: what was said of each, what is so, and where the network saw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from resnetv2.data.index import Index
from resnetv2.data.thumbnails import SIDE, open_shown, thumbnail
from resnetv2.explanation import overlay
from resnetv2.inference import sigmoid, softmax
from resnetv2.pages.render import to_address
from resnetv2.weights.modelfile import Header

_LEAST = 1e-300
Told = tuple[str, str, int]  # what was said, what is so, and the class whose evidence is worth a look


@dataclass(frozen=True)
class Shown:
    """What a page is made of: the report of ``evaluate``, the model's header, the pictures, and the logits (N, K).

    ``heat`` turns what the network sees, uint8 (H, W, 3), and a class into where it saw it, float32 (H, W). At most
    ``mistakes`` pictures are shown.
    """

    report: Mapping[str, Any]
    header: Header
    index: Index
    logits: np.ndarray
    heat: Callable[[np.ndarray, int], np.ndarray] | None = None
    mistakes: int = 24


def find_mistakes(shown: Shown) -> list[dict[str, str]]:
    """Return thumbnails of the worst mistakes, each with what was said and what is so."""
    badness, tell = _TELLERS[shown.header.task](shown)
    order = np.argsort(-badness, kind="stable")[: shown.mistakes]
    entries = []
    for i in (int(i) for i in order if badness[i] > 0):
        said, so, number = tell(i)
        picture = open_shown(shown.index.place(i))
        seen = _seen(shown, picture, number)
        entry = {"path": shown.index.paths[i], "said": said, "so": so, "picture": thumbnail(picture), "seen": seen}
        entries.append(entry)
    return entries


def show_labels(index: Index, places: Sequence[int], said: Sequence[str]) -> list[dict[str, str]]:
    """Return thumbnails of pictures, each with the label that it has and what is said against it."""
    return [
        {
            "path": index.paths[i],
            "said": words,
            "so": f"labelled {index.label(i)}",
            "picture": thumbnail(open_shown(index.place(i))),
            "seen": "",
        }
        for i, words in zip(places, said, strict=True)
    ]


def _seen(shown: Shown, picture: Image.Image | None, number: int) -> str:
    """Return the picture as the network sees it, with the heat of a class, "" where that cannot be told."""
    if shown.heat is None or picture is None:
        return ""
    pixels = np.array(shown.header.preprocessing(picture))
    heated = overlay(pixels, shown.heat(pixels, number))
    return to_address(heated.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _tell_class(shown: Shown) -> tuple[np.ndarray, Callable[[int], Told]]:
    labels, classes, logits = shown.index.labels, shown.header.classes, shown.logits
    said = logits.argmax(axis=1)
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    # of the wrong answers, how much likelier the answer was taken to be than the truth; the logarithm of it
    badness = np.where(said == labels, 0.0, np.maximum(logits.max(axis=1) - true, np.finfo(np.float32).tiny))

    def tell(i: int) -> Told:
        p = softmax(logits[i : i + 1])[0]
        so = f"is {classes[labels[i]]} ({p[labels[i]]:.1%})"
        return f"said {classes[said[i]]} ({p[said[i]]:.1%})", so, int(said[i])

    return badness, tell


def _tell_labels(shown: Shown) -> tuple[np.ndarray, Callable[[int], Told]]:
    truth, classes, p = shown.index.labels.astype(bool), shown.header.classes, sigmoid(shown.logits)
    answers = shown.logits >= 0
    right = np.where(truth, p, sigmoid(-shown.logits))
    surprise = -np.log(np.maximum(right, _LEAST))
    badness = np.where((answers == truth).all(axis=1), 0.0, surprise.max(axis=1))

    def tell(i: int) -> Told:
        wrong, missed = (_names(classes, mask) for mask in (answers[i] & ~truth[i], truth[i] & ~answers[i]))
        said, so = f"not there: {wrong}" if wrong else "", f"missed: {missed}" if missed else ""
        return said, so, int(surprise[i].argmax())

    return badness, tell


def _tell_number(shown: Shown) -> tuple[np.ndarray, Callable[[int], Told]]:
    answers, targets = shown.logits.reshape(-1), shown.index.labels
    return np.abs(answers - targets), lambda i: (f"said {answers[i]:.4g}", f"is {targets[i]:.4g}", 0)


_TELLERS = {"classification": _tell_class, "multilabel": _tell_labels, "regression": _tell_number}


def _names(classes: Sequence[str], mask: np.ndarray) -> str:
    return ", ".join(classes[i] for i in np.flatnonzero(mask).tolist())
