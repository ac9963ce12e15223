"""Pictures to labels: the classifier that prediction, evaluation and verification share."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from resnetv2.console import Counter, talk
from resnetv2.data.index import find_pictures
from resnetv2.errors import ConfigError, DataError, Error, ModelFileError
from resnetv2.preprocess import open_picture
from resnetv2.published import find_model, read_published
from resnetv2.runtime.artefact import PRECISIONS, Artefact, is_artefact, open_artefact, read_artefact
from resnetv2.runtime.choice import AUTO, open_session
from resnetv2.runtime.session import POOLED, Session, check_finite
from resnetv2.weights.likeness import TrainingFeatures
from resnetv2.weights.modelfile import Golden, Header, ModelFile, read_header, read_model_file

GOLDEN_TOLERANCE = 1e-4  # of the largest logit: other processors and versions round float32 differently, by about 1e-6
PRESENT = 0.5  # probability from which on a class is among the ``labels`` of a picture
_BATCH = 32
_AHEAD = 3  # batches decoded before they are asked for, fewer where they would take more than …
_AHEAD_BYTES = 2**28
Answer = TypeVar("Answer")  # what a session computes of some pictures


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
        abstains: of a model that may abstain, why it does: "not sure" or "unlike the training data"; then label and
            probability are None, and ``top`` is what would have been answered.
        distance: of a model that may abstain, how unlike the training data the picture is: about 1 over the training
            pictures, and more over new ones.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] | None = None
    value: float | None = None
    error: str | None = None
    abstains: str | None = None
    distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON line: path, and label, probability, top; or labels, top; or value; or error.

        Of a model that may abstain also abstains and distance.
        """
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        if self.value is not None:
            return {"path": self.path, "value": self.value}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        if self.labels is not None:
            return {"path": self.path, "labels": list(self.labels), "top": top}
        answer = {"path": self.path, "label": self.label, "probability": self.probability, "top": top}
        return answer if self.distance is None else answer | {"abstains": self.abstains, "distance": self.distance}


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a network makes of one picture: features float32 (D,); with ``error`` there are none, and the reason."""

    path: str
    features: np.ndarray | None = None
    error: str | None = None


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
        likeness: the features of the training pictures, where the model is calibrated; else None.
    """

    def __init__(self, header: Header, session: Session, likeness: TrainingFeatures | None = None) -> None:
        self.header = header
        self.session = session
        self.likeness = likeness
        self._most: int | None = None  # pictures at once that fit into memory, once that is known

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", runtime: str = AUTO, count: int = 1) -> Self:
        """Read a model file, an artefact, or published weights by name, check them, and make them ready on a device.

        Args:
            path: a model file, an artefact that ``export`` wrote, or a name such as "resnet50v2.a1h_in1k", which is
                fetched once and then kept.
            device: "auto", "cpu", "cuda", "mps".
            runtime: what computes: "auto" is the fastest that is installed, which is said on stderr; "openvino",
                "onnx", "torch", "torch-compile". An artefact has only the one that it was exported for.
            count: pictures that will be answered, as far as that is known: with many of them "auto" measures.

        Raises:
            DownloadError: published weights cannot be fetched.
            ModelFileError: the file is missing, damaged, foreign, newer, tampered with, or does not fit together.
            ConfigError: no such device or runtime.
            MissingExtra: the runtime is not installed.
        """
        return cls.from_file(read_model(path), device, runtime, count)

    @classmethod
    def from_file(cls, file: ModelFile | Artefact, device: str = "auto", runtime: str = AUTO, count: int = 1) -> Self:
        """Make what was read ready on a device; raises as ``load`` does."""
        if isinstance(file, Artefact):
            return cls(file.header, open_artefact(file, runtime, device), file.likeness)
        return cls(file.header, open_session(file, runtime, device, count), file.likeness)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index of the logits."""
        return self.header.classes

    def logits(self, pictures: Sequence[bytes | Path]) -> np.ndarray:
        """Return logits float32 (N, num_classes) for encoded pictures or paths.

        Raises:
            DataError: a picture cannot be read.
        """
        return self.answer(self.header.preprocessing.decode(pictures))

    def answer(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits float32 (N, num_classes) for uint8 pixels (N, image_size, image_size, 3) RGB.

        Where so many at once do not fit into memory, they are halved, from then on, which is said on stderr.

        Raises:
            Error: a single picture does not fit into memory.
        """
        return np.concatenate(self._compute(self.session, pixels))

    def answer_with_distances(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same logits, and how unlike the training data pictures are: float64 (N,); see
        ``TrainingFeatures.distances``.

        Raises:
            ConfigError: the model is not calibrated.
            Error: as ``answer``.
        """
        likeness = self._check_calibrated()
        logits, features = self.answer_with_features(pixels)
        return logits, likeness.distances(features)

    def answer_with_features(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same logits, and pooled features float32 (N, num_features); raises as ``answer``."""
        logits, features = zip(*self._compute(self.session.with_features, pixels), strict=True)
        return np.concatenate(logits), np.concatenate(features)

    def features(self, pixels: np.ndarray, layer: str = POOLED, normalize: bool = False) -> np.ndarray:
        """Return features float32 (N, D) for uint8 pixels (N, image_size, image_size, 3) RGB.

        Args:
            pixels: as above.
            layer: "pooled" is what the network's head classifies. Of a map, "stage1", "stage2" …, the mean over its
                places is taken.
            normalize: scale every row to length 1, so that the product of two of them is their cosine.

        Raises:
            ConfigError: no such layer here.
            ModelFileError: features that are not finite.
            Error: a single picture does not fit into memory.
        """

        def compute(part: np.ndarray) -> np.ndarray:
            found = check_finite(self.session.features(part, layer))
            return found if found.ndim == 2 else found.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)

        rows = np.concatenate(self._compute(compute, pixels))
        if normalize:
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
            rows = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        return rows

    def _check_calibrated(self) -> TrainingFeatures:
        if self.likeness is None and self.header.calibration is not None:
            raise ConfigError(
                "this model cannot abstain: folders for timm and transformers keep its temperature, and not the "
                "features of its training pictures; take the model file that was calibrated"
            )
        if self.likeness is None:
            raise ConfigError(
                "the model is not calibrated, so it does not know when to abstain: "
                "resnetv2 calibrate MODEL DATA --out FILE writes one that is"
            )
        return self.likeness

    def _compute(self, compute: Callable[[np.ndarray], Answer], pixels: np.ndarray) -> list[Answer]:
        """Return what is computed of the pictures, in as many parts as memory asks for."""
        rows: list[Answer] = []
        done = 0
        while done < len(pixels):
            part = pixels[done : done + (self._most or len(pixels))]
            try:
                rows.append(compute(part))
            except MemoryError as error:
                if len(part) == 1:
                    raise Error(f"out of memory with a single picture: {error}") from error
                self._most = (len(part) + 1) // 2
                talk().print(f"out of memory with {len(part)} pictures at once; going on with {self._most}")
                continue
            done += len(part)
        return rows

    def predict(self, pictures: Iterable[str | Path], top: int = 5, *, abstain: bool = False) -> Iterator[Prediction]:
        """Answer every picture in order; one that cannot be read is answered with its error.

        Threads decode what comes next while the network computes.

        Args:
            pictures: files.
            top: how many labels to give for each.
            abstain: let a calibrated model say that it does not know.

        Raises:
            ConfigError: ``top`` is below 1, a network without a head, or one that may abstain and is not calibrated.
        """
        if abstain:
            self._check_calibrated()
        if top < 1:
            raise ConfigError(f"top must be at least 1, got {top}")
        if not self.classes:
            raise ConfigError("the network has no head: it answers with features, not with labels")
        for batch in self._decode(pictures):
            yield from self._answer(batch, top, abstain)

    def embed(
        self, pictures: Iterable[str | Path], layer: str = POOLED, normalize: bool = False
    ) -> Iterator[Embedding]:
        """Give the features of every picture in order, as ``features`` does; one that cannot be read has its error."""
        for batch in self._decode(pictures):
            readable = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
            rows = iter(self.features(np.stack(readable), layer, normalize) if readable else ())
            for path, pixels in batch:
                is_read = isinstance(pixels, np.ndarray)
                yield Embedding(path, features=next(rows)) if is_read else Embedding(path, error=str(pixels))

    def _decode(self, pictures: Iterable[str | Path]) -> Iterator[list[tuple[str, np.ndarray | str]]]:
        """Yield batches of paths with their pixels or errors, decoded a bounded number of pictures ahead."""
        ahead = max(1, min(_AHEAD * _BATCH, _AHEAD_BYTES // (3 * self.header.preprocessing.image_size**2)))
        size = max(1, min(_BATCH, ahead // _AHEAD))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            waiting: deque[tuple[str, Future[np.ndarray | str]]] = deque()

            def take() -> list[tuple[str, np.ndarray | str]]:
                taken = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                return [(path, future.result()) for path, future in taken]

            try:
                for path in pictures:
                    waiting.append((str(path), pool.submit(self._open, path)))
                    if len(waiting) >= ahead:
                        yield take()
                while waiting:
                    yield take()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, path: str | Path) -> np.ndarray | str:
        try:
            return self.header.preprocessing(open_picture(Path(path)))
        except DataError as error:
            return str(error)

    def _answer(self, batch: list[tuple[str, np.ndarray | str]], top: int, abstain: bool) -> Iterator[Prediction]:
        readable = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
        rows: Iterator[tuple[np.ndarray, float | None]] = iter(())
        if readable and abstain:
            logits, distances = self.answer_with_distances(np.stack(readable))
            rows = zip(self.header.scale(logits), distances.tolist(), strict=True)
        elif readable:
            rows = ((logits, None) for logits in self.header.scale(self.answer(np.stack(readable))))
        for path, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(path, error=pixels)
                continue
            logits, distance = next(rows)
            answer = read_logits(path, logits, self.header, top)
            yield answer if distance is None else doubt(answer, distance, self.header)


def doubt(answer: Prediction, distance: float, header: Header) -> Prediction:
    """Return an answer as a calibrated model gives it to a picture at a distance from the training data: or not."""
    if header.calibration is None or answer.probability is None:
        return answer
    reason = header.calibration.reason(answer.probability, distance)
    if reason is None:
        return replace(answer, distance=distance)
    return replace(answer, label=None, probability=None, abstains=reason, distance=distance)


def read_logits(path: str, logits: np.ndarray, header: Header, top: int) -> Prediction:
    """Return what the logits (num_classes,) of a picture, scaled, mean to a network's task."""
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


def load(model: str | Path, device: str = "auto", runtime: str = AUTO) -> Classifier:
    """Load a model file, an artefact, or published weights by name; see ``Classifier.load``."""
    return Classifier.load(model, device, runtime)


def predict(
    model: str | Path | Classifier,
    pictures: Sequence[str | Path],
    top: int = 5,
    device: str = "auto",
    runtime: str = AUTO,
    *,
    abstain: bool = False,
) -> list[Prediction]:
    """Label pictures and folders of pictures.

    Args:
        model: a model file, an artefact, or a loaded classifier.
        pictures: files and folders; folders are searched through.
        top: how many labels to give for each.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.
        abstain: let a calibrated model say that it does not know, and why.

    Returns:
        One prediction for each picture, in order; unreadable ones carry their ``error``.

    Raises:
        DataError: a folder holds no pictures.
        ConfigError: it may abstain and is not calibrated.
        ModelFileError: see ``Classifier.load``.
    """
    return list(predict_each(model, pictures, top, device, runtime, abstain=abstain))


def predict_each(
    model: str | Path | Classifier,
    pictures: Sequence[str | Path],
    top: int = 5,
    device: str = "auto",
    runtime: str = AUTO,
    progress: Counter | None = None,
    *,
    abstain: bool = False,
) -> Iterator[Prediction]:
    """Do as ``predict``, one prediction at a time; ``progress`` is called with the pictures done and the total."""
    paths = expand(pictures)
    classifier = model if isinstance(model, Classifier) else Classifier.load(model, device, runtime, len(paths))
    for number, answer in enumerate(classifier.predict(paths, top, abstain=abstain), 1):
        if progress is not None:
            progress(number, len(paths))
        yield answer


def read_model(model: str | Path) -> ModelFile | Artefact:
    """Read a model file, an artefact, or published weights by name, whole, and check its digest.

    Raises:
        ModelFileError, DownloadError, ConvertError: it cannot be read, or fetched.
    """
    return read_artefact(Path(model)) if is_artefact(model) else read_published(model, read_model_file)


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
    """Return the header of a model file or artefact as plain values; torch is not needed, nor any runtime."""
    if is_artefact(model):
        return {"path": str(model), **read_artefact(Path(model)).to_dict()}
    header = read_published(model, read_header)
    return {"path": str(find_model(model)), **header.to_dict()}


def verify(model: str | Path, device: str = "auto", runtime: str = AUTO) -> Verification:
    """Replay the golden samples of a model file or an artefact, from picture bytes to logits.

    Raises:
        ModelFileError: the file cannot be read, holds no golden samples, or no longer gives the logits it promised.
    """
    file = read_model(model)
    if not file.golden.pictures:
        raise ModelFileError(f"{model} holds no golden samples to replay")
    tolerance = PRECISIONS[file.precision] if isinstance(file, Artefact) else GOLDEN_TOLERANCE
    result = compare_golden(str(model), Classifier.from_file(file, device, runtime), file.golden, tolerance)
    if not result.ok:
        raise ModelFileError(
            f"{model} does not give the logits it promised: {result.samples} golden samples, worst difference "
            f"{result.worst:.1e} of the largest logit (allowed {result.tolerance:.0e}), "
            f"{'same' if result.same_labels else 'other'} labels"
        )
    return result


def compare_golden(
    path: str, classifier: Classifier, golden: Golden, tolerance: float = GOLDEN_TOLERANCE
) -> Verification:
    """Compare what a classifier answers to golden pictures with what is expected."""
    logits = classifier.logits(golden.pictures)
    scale = float(np.abs(golden.logits).max()) or 1.0
    worst = float(np.abs(logits - golden.logits).max()) / scale
    same = bool(same_labels(logits, golden.logits, classifier.header.task).all())
    ok = same and worst <= tolerance
    return Verification(path, len(golden.pictures), worst, tolerance, same, ok)


def same_labels(ours: np.ndarray, theirs: np.ndarray, task: str) -> np.ndarray:
    """Tell of each picture whether logits (N, K) and (N, K) give one label, bool (N,).

    Only "classification" has a label that can change; of the other tasks, the distance of the logits says all.
    """
    if task != "classification":
        return np.ones(len(ours), bool)
    result: np.ndarray = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return result
