"""What a model answers to the pictures of a split: each once, whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import readable_index
from resnetv2.data.examine import examine_pictures
from resnetv2.data.index import Index, Samples, read_index
from resnetv2.data.load import Loader
from resnetv2.data.targets import renumber_classes
from resnetv2.errors import ConfigError, DataError, nearest, unknown
from resnetv2.evaluation.split import run_split
from resnetv2.inference import Answer, Classifier, sigmoid, softmax
from resnetv2.preprocess import Preprocessing
from resnetv2.weights.labels import IMAGENET, synsets
from resnetv2.weights.modelfile import Header

_LEAST = 1e-300  # a probability whose logarithm is a number


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split, with labels numbered as the model's classes are.

    Attributes:
        index: of these pictures alone.
        skipped: path and reason of each picture of the split that was left out.
    """

    index: Index
    skipped: list[dict[str, str]]

    @property
    def samples(self) -> Samples:
        """What they can be read from, and their labels."""
        return self.index.split("all")

    def take(self, places: list[int]) -> Pictures:
        """Return those at these places, in this order."""
        return replace(self, index=self.index.take(places))


def find_pictures(
    header: Header, name: str, data: str | Path, split: str, on_bad_image: str = "error", *, strict: bool = False
) -> Pictures:
    """Find the pictures of a split, as the run of a model split them where that is known.

    Args:
        header: of the model.
        name: its file, or "" where that is not known.
        data: see ``evaluate``.
        split: "train", "val", "test", or "all" of them.
        on_bad_image: "error" or "skip".
        strict: refuse a split that may not be the run's, where else a warning is given.

    Raises:
        ConfigError: a network without a head.
        DataError: see ``evaluate``.
    """
    if not header.classes:
        raise ConfigError(f"{name or 'the network'} has no head: it answers with features, not with labels")
    index, skipped = run_split(read_index(Path(data), task=header.task), name, header.provenance, split, strict=strict)
    index.split(split)  # refuses a split that is not there
    index = index.take(np.flatnonzero((index.splits == split) | (split == "all")).tolist())
    if on_bad_image == "skip":
        reasons = examine_pictures(index).reasons
        skipped += [{"path": index.paths[i], "reason": reason} for i, reason in reasons.items()]
        index = readable_index(index, reasons, on_bad_image)
    if header.task != "regression":
        index = match_classes(index, header.classes, _wordnet(header))
    return Pictures(index, skipped)


def ask(
    classifier: Classifier,
    samples: Samples,
    *,
    batch_size: int = 32,
    tta: str | None = None,
    progress: Counter | None = None,
) -> np.ndarray:
    """Return logits (N, K) for N pictures, divided by the model's temperature if it is calibrated.

    With ``tta`` they are float64 and stand for the views' mean.

    Args:
        classifier: the model.
        samples: the pictures.
        batch_size: pictures at a time.
        tta: a key of TTA: several views of each picture, whose probabilities (of numbers: the answers) are averaged.
        progress: called with the pictures done and the total.

    Raises:
        ConfigError: batch_size below 1, an unknown ``tta``, or nothing around the crop for five of them.
        DataError: an unreadable picture.
    """
    header = classifier.header

    def answer(pictures: np.ndarray) -> np.ndarray:
        if tta is None:
            return header.scale(classifier.answer(pictures))
        views = TTA[tta](pictures, header.preprocessing.image_size)
        return _MEANS[header.task]([header.scale(classifier.answer(view)) for view in views])

    preprocessing = header.preprocessing if tta is None else _around(header.preprocessing, tta)
    return np.concatenate(ask_each(answer, samples, preprocessing, batch_size, progress))


def ask_with_distances(
    classifier: Classifier,
    samples: Samples,
    *,
    batch_size: int = 32,
    tta: str | None = None,
    progress: Counter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of ``ask``, and how unlike the training data each picture is: float64 (N,).

    With ``tta``, its plain view is.

    Raises:
        ConfigError: as ``ask``, or the model is not calibrated.
        DataError: an unreadable picture.
    """
    header = classifier.header

    def answer(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        views = iter([pictures]) if tta is None else TTA[tta](pictures, header.preprocessing.image_size)
        logits, distances = classifier.answer_with_distances(next(views))
        if tta is None:
            return header.scale(logits), distances
        others = [header.scale(classifier.answer(view)) for view in views]
        return _MEANS[header.task]([header.scale(logits), *others]), distances

    preprocessing = header.preprocessing if tta is None else _around(header.preprocessing, tta)
    logits, distances = zip(*ask_each(answer, samples, preprocessing, batch_size, progress), strict=True)
    return np.concatenate(logits), np.concatenate(distances)


def ask_each(
    answer: Callable[[np.ndarray], Answer],
    samples: Samples,
    preprocessing: Preprocessing,
    batch_size: int = 32,
    progress: Counter | None = None,
) -> list[Answer]:
    """Return what is answered to the pictures of each batch, uint8 (n, side, side, 3) RGB, in order."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    rows, done = [], 0
    for batch in Loader(samples, batch_size, preprocessing).batches():
        rows.append(answer(batch.pictures))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(samples))
    return rows


# --- several views of a picture ---


def flipped(pictures: np.ndarray, size: int) -> Iterator[np.ndarray]:  # noqa: ARG001  as five_crops
    """Yield pictures (N, H, W, 3), and their mirror images."""
    yield pictures
    yield np.ascontiguousarray(pictures[:, :, ::-1])


def five_crops(pictures: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the middle and the four corners, of ``size`` pixels, of square pictures (N, H, H, 3)."""
    rest = pictures.shape[1] - size
    for top, left in ((rest // 2, rest // 2), (0, 0), (0, rest), (rest, 0), (rest, rest)):
        yield np.ascontiguousarray(pictures[:, top : top + size, left : left + size])


# the plain view comes first
TTA: dict[str, Callable[[np.ndarray, int], Iterator[np.ndarray]]] = {"flip": flipped, "five-crop": five_crops}


def _around(preprocessing: Preprocessing, tta: str) -> Preprocessing:
    """Return what a picture is made into before its views are cut out."""
    if tta not in TTA:
        raise ConfigError(unknown("tta", tta, TTA))
    if tta != "five-crop":
        return preprocessing
    if preprocessing.resize == preprocessing.image_size:
        raise ConfigError(
            f"five crops need something around the middle one, and this network sees pictures whole: they are resized "
            f"to {preprocessing.resize} pixels, its own size"
        )
    return replace(preprocessing, image_size=preprocessing.resize)


def _mean_class(views: list[np.ndarray]) -> np.ndarray:
    result: np.ndarray = np.log(np.maximum(np.mean([softmax(view) for view in views], axis=0), _LEAST))
    return result


def _mean_labels(views: list[np.ndarray]) -> np.ndarray:
    p, not_p = (np.mean([sigmoid(sign * view) for view in views], axis=0) for sign in (1, -1))
    result: np.ndarray = np.log(np.maximum(p, _LEAST)) - np.log(np.maximum(not_p, _LEAST))
    return result


def _mean_number(views: list[np.ndarray]) -> np.ndarray:
    result: np.ndarray = np.stack(views).mean(axis=0, dtype=np.float64)
    return result


_MEANS = {"classification": _mean_class, "multilabel": _mean_labels, "regression": _mean_number}


# --- classes by name ---


def match_classes(index: Index, classes: tuple[str, ...], aliases: tuple[str, ...] = ()) -> Index:
    """Return the index with its labels numbered as the model numbers its classes, matched by name.

    Data may lack some of the model's classes, but not the other way round. ``aliases`` are second names by index, such
    as WordNet's synsets.

    Raises:
        DataError: the data has other classes; both sets are listed, and the nearest names.
    """
    numbers = {name: i for names in (aliases, classes) for i, name in enumerate(names)}
    strangers = [name for name in index.classes if name not in numbers]
    if strangers:
        near = [f"{name!r} may be {found!r}" for name in strangers[:12] if (found := nearest(name, numbers))]
        hint = f" ({', '.join(near)})" if near else ""
        raise DataError(
            f"the data has classes that the model does not know: {_list(strangers)}{hint}; "
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
