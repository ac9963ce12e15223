"""Pictures to labels: the classifier that prediction, evaluation and verification share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from resnetv2.data.index import find_pictures
from resnetv2.errors import ConfigError, DataError, MissingExtra, ModelFileError
from resnetv2.preprocess import open_picture
from resnetv2.published import find_model, read_published
from resnetv2.weights.modelfile import Golden, Header, ModelFile, read_header, read_model_file

GOLDEN_TOLERANCE = 1e-4  # of the largest logit: other processors and versions round float32 differently, by about 1e-6
PRESENT = 0.5  # probability from which on a class is among the ``labels`` of a picture
_BATCH = 32


class Session(Protocol):
    """Whatever turns uint8 pictures (N, H, W, 3) RGB into logits float32 (N, num_classes).

    Its ``features`` are what the network's head classifies, float32 (N, num_features).
    """

    def __call__(self, pictures: np.ndarray) -> np.ndarray: ...

    def features(self, pictures: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture; with ``error`` there is no answer, and the reason.

    Attributes:
        path: of the picture.
        label, probability: the most probable class; of "multilabel" and "regression", None.
        top: classes with their probabilities, the most probable first.
        labels: of "multilabel", the classes with a probability of 0.5 or more; else None.
        value: of "regression", what was measured; else None.
        error: why there is no answer.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] | None = None
    value: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON line: path, and label, probability, top; or labels, top; or value; or error."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        if self.value is not None:
            return {"path": self.path, "value": self.value}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        if self.labels is not None:
            return {"path": self.path, "labels": list(self.labels), "top": top}
        return {"path": self.path, "label": self.label, "probability": self.probability, "top": top}


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found: k golden samples, the worst difference relative to the largest logit, and the verdict."""

    path: str
    samples: int
    worst: float
    tolerance: float
    same_labels: bool
    ok: bool


class Classifier:
    """A network with its preprocessing and class names; made by ``load``.

    Attributes:
        header: what the model file says of itself.
        session: computes logits.
    """

    def __init__(self, header: Header, session: Session) -> None:
        self.header = header
        self.session = session

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Self:
        """Read a model file, or published weights by name, check them, and make them ready on a device.

        Args:
            path: a model file, or a name such as "resnet50v2.a1h_in1k", which is fetched once and then kept.
            device: "auto", "cpu", "cuda", "mps".

        Raises:
            DownloadError: published weights cannot be fetched.
            ModelFileError: the file is missing, damaged, foreign, newer, tampered with, or does not fit together.
            ConfigError: no such device.
            MissingExtra: torch is not installed.
        """
        return cls.from_file(read_published(path, read_model_file), device)

    @classmethod
    def from_file(cls, file: ModelFile, device: str = "auto") -> Self:
        """Make a model file that was read ready on a device; raises as ``load`` does."""
        try:
            from resnetv2.runtime.pytorch import TorchSession, build_model, choose_device
        except ModuleNotFoundError as error:
            raise MissingExtra("running a .safetensors model file", "train") from error
        model = build_model(file.header.architecture, file.weights)
        session = TorchSession(model, file.header.preprocessing, choose_device(device))
        return cls(file.header, session)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index of the logits."""
        return self.header.classes

    def logits(self, pictures: Sequence[bytes | Path]) -> np.ndarray:
        """Return logits float32 (N, num_classes) for encoded pictures or paths.

        Raises:
            DataError: a picture cannot be read.
        """
        return self.session(self.header.preprocessing.decode(pictures))

    def predict(self, pictures: Iterable[str | Path], top: int = 5) -> Iterator[Prediction]:
        """Answer every picture in order; one that cannot be read is answered with its error."""
        if top < 1:
            raise ConfigError(f"top must be at least 1, got {top}")
        if not self.classes:
            raise ConfigError("the network has no head: it answers with features, not with labels")
        batch: list[tuple[str, np.ndarray | str]] = []
        for path in pictures:
            try:
                batch.append((str(path), self.header.preprocessing(open_picture(Path(path)))))
            except DataError as error:
                batch.append((str(path), str(error)))
            if len(batch) == _BATCH:
                yield from self._answer(batch, top)
                batch = []
        yield from self._answer(batch, top)

    def _answer(self, batch: list[tuple[str, np.ndarray | str]], top: int) -> Iterator[Prediction]:
        readable = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
        rows = iter(self.session(np.stack(readable)) if readable else ())
        for path, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(path, error=pixels)
            else:
                yield read_logits(path, next(rows), self.header, top)


def read_logits(path: str, logits: np.ndarray, header: Header, top: int) -> Prediction:
    """Return what the logits (num_classes,) of a picture mean to a network's task."""
    if header.task == "regression":
        return Prediction(path, value=float(logits[0]))
    row = sigmoid(logits) if header.task == "multilabel" else softmax(logits[None])[0]
    ranked = tuple((header.classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top])
    if header.task == "multilabel":
        present = tuple(name for name, probability in zip(header.classes, row, strict=True) if probability >= PRESENT)
        return Prediction(path, top=ranked, labels=present)
    return Prediction(path, *ranked[0], ranked)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each class for itself, float64 of the same shape."""
    half: np.ndarray = np.tanh(logits.astype(np.float64) / 2) / 2  # 1 / (1 + exp(-x)) would overflow
    return half + 0.5


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) -> probabilities (N, K) in float64, each row summing to 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


def load(model: str | Path, device: str = "auto") -> Classifier:
    """Load a model file, or published weights by name; see ``Classifier.load``."""
    return Classifier.load(model, device)


def predict(
    model: str | Path | Classifier, pictures: Sequence[str | Path], top: int = 5, device: str = "auto"
) -> list[Prediction]:
    """Label pictures and folders of pictures.

    Args:
        model: a model file, or a loaded classifier.
        pictures: files and folders; folders are searched through.
        top: how many labels to give for each.
        device: "auto", "cpu", "cuda", "mps".

    Returns:
        One prediction for each picture, in order; unreadable ones carry their ``error``.

    Raises:
        DataError: a folder holds no pictures.
        ModelFileError: see ``Classifier.load``.
    """
    return list(predict_each(model, pictures, top, device))


def predict_each(
    model: str | Path | Classifier, pictures: Sequence[str | Path], top: int = 5, device: str = "auto"
) -> Iterator[Prediction]:
    """Do as ``predict``, one prediction at a time as they are made."""
    paths = expand(pictures)
    classifier = model if isinstance(model, Classifier) else load(model, device)
    return classifier.predict(paths, top)


def expand(pictures: Sequence[str | Path]) -> list[Path]:
    """Replace folders by the pictures in them."""
    paths: list[Path] = []
    for picture in map(Path, pictures):
        found = find_pictures(picture) if picture.is_dir() else [picture]
        if not found:
            raise DataError(f"no pictures in {picture}")
        paths += found
    return paths


def info(model: str | Path) -> dict[str, Any]:
    """Return the header of a model file as plain values; no weight is read and torch is not needed."""
    header = read_published(model, read_header)
    return {"path": str(find_model(model)), **header.to_dict()}


def verify(model: str | Path, device: str = "auto") -> Verification:
    """Replay a model file's golden samples, from picture bytes to logits.

    Raises:
        ModelFileError: the file cannot be read, holds no golden samples, or no longer gives the logits it promised.
    """
    file = read_published(model, read_model_file)
    if not file.golden.pictures:
        raise ModelFileError(f"{model} holds no golden samples to replay")
    result = compare_golden(str(model), Classifier.from_file(file, device), file.golden)
    if not result.ok:
        raise ModelFileError(
            f"{model} does not give the logits it promised: {result.samples} golden samples, worst difference "
            f"{result.worst:.1e} of the largest logit (allowed {result.tolerance:.0e}), "
            f"{'same' if result.same_labels else 'other'} labels"
        )
    return result


def compare_golden(path: str, classifier: Classifier, golden: Golden) -> Verification:
    """Compare what a classifier answers to golden pictures with what is expected."""
    logits = classifier.logits(golden.pictures)
    scale = float(np.abs(golden.logits).max()) or 1.0
    worst = float(np.abs(logits - golden.logits).max()) / scale
    same = bool((logits.argmax(axis=1) == golden.logits.argmax(axis=1)).all())
    ok = same and worst <= GOLDEN_TOLERANCE
    return Verification(path, len(golden.pictures), worst, GOLDEN_TOLERANCE, same, ok)
