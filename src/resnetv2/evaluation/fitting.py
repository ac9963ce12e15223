"""What a model knows of its own doubt, learnt from the pictures that chose it: temperature, threshold and limit."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import check_policy
from resnetv2.data.index import Samples, refuse_inside
from resnetv2.errors import ConfigError, DataError, Error
from resnetv2.evaluation.answers import Pictures, ask_each, find_pictures
from resnetv2.evaluation.calibration import find_threshold, fit_temperature
from resnetv2.evaluation.probabilities import Probabilities
from resnetv2.evaluation.reliability import expected_calibration_error
from resnetv2.evaluation.split import check_unseen
from resnetv2.inference import Classifier, read_model
from resnetv2.runtime.artefact import Artefact
from resnetv2.runtime.choice import AUTO
from resnetv2.weights.calibration import Calibration
from resnetv2.weights.likeness import TrainingFeatures
from resnetv2.weights.modelfile import Header, ModelFile, write_model_file

SPLIT = "val"
UNLIKE_RATE = 0.01  # of pictures like the validation pictures that may be taken for unlike
_FEWEST, _EACH = 1_000, 10  # training pictures whose features are taken: so many, or so many of each class if more
_WHY = {
    "train": "of the pictures that it was trained on, a model is far too sure",
    "test": "the figures that test gives would no longer be those of pictures that nothing was chosen by",
}


def calibrate(
    model: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    error_rate: float | None = None,
    split: str = SPLIT,
    device: str = "auto",
    runtime: str = AUTO,
    on_bad_image: str = "error",
    progress: Counter | None = None,
) -> dict[str, Any]:
    """Write a model file that is calibrated: its probabilities mean what they say, and it knows when not to answer.

    The temperature (Guo et al. 2017) has the least log loss on the validation split. A picture is unlike the training
    data when its features lie farther from those of the training split than 99 % of the validation pictures do; see
    ``TrainingFeatures``. Among the others, ``error_rate`` sets the lowest probability that is answered.

    Args:
        model: a model file, or published weights by name; it is only read.
        data: as ``evaluate`` takes it, with the run's validation and training splits.
        out: the new model file, with the same weights.
        error_rate: of what is answered, kept with 95 % certainty for pictures like these; None promises nothing.
        split: "val"; the others are refused.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.
        on_bad_image: "error" to refuse pictures that cannot be read, "skip" to leave them out.
        progress: called with the pictures done and the total.

    Returns:
        ``out``, ``n``, ``top1``; ``temperature`` with ``temperature_ci95``; ``log_loss`` and ``ece``, each ``before``
        and ``after`` on the same pictures; ``limit``, ``unlike_rate`` and ``unlike``, how many of these pictures
        are; ``threshold``, ``error_rate``, ``error_rate_bound``, ``answered`` and ``errors`` among these pictures;
        ``undefined``: why a figure is None, by its name; ``skipped``: as ``evaluate``.

    Raises:
        ConfigError: another split, an error rate outside 0 … 1, ``out`` inside the data, an artefact, or a network that
            does not give one class.
        DataError: no such split, pictures of one class alone, pictures that the model's run trained or tests on, too
            few or too many mistakes for the error rate, or an unreadable picture.
        ModelFileError, DownloadError, MissingExtra: see ``Classifier.load``.
        Error: ``out`` exists, or the file system refused.
    """
    out = Path(out)
    _check_options(out, split, error_rate)
    refuse_inside(out, Path(data))
    check_policy(on_bad_image)
    file = read_model(model)
    if isinstance(file, Artefact):
        raise ConfigError(f"{model} is an artefact: calibrate the model file, then export that")
    _check_task(str(model), file.header)
    held, trained = (
        find_pictures(file.header, str(model), data, name, on_bad_image, strict=True) for name in (SPLIT, "train")
    )
    _check_classes(held, data)
    check_unseen(held.index, str(model), file.header.provenance, SPLIT)
    some = _some(trained, len(file.header.classes))
    total = len(held.samples) + len(some)
    classifier = Classifier.from_file(file, device, runtime, total)
    likeness = TrainingFeatures.of(_ask(classifier, some, progress, 0, total)[1], some.labels)
    logits, features = _ask(classifier, held.samples, progress, len(some), total)
    calibration, report = fit(logits, held.samples.labels, likeness.distances(features), error_rate)
    calibration = replace(calibration, data=held.index.digest())
    write_model_file(out, ModelFile(replace(file.header, calibration=calibration), file.weights, file.golden, likeness))
    return {"out": str(out), **report, "skipped": held.skipped}


def fit(
    logits: np.ndarray, labels: np.ndarray, distances: np.ndarray, error_rate: float | None
) -> tuple[Calibration, dict[str, Any]]:
    """Fit a calibration to logits (n, K), labels (n,) and distances (n,), and tell what was found; see ``calibrate``.

    Raises:
        DataError: the error rate cannot be promised.
    """
    n, correct = len(labels), logits.argmax(axis=1) == labels
    undefined: dict[str, str] = {}
    temperature, report = _temperature(logits, labels, undefined)
    confidence = Probabilities.of(logits.astype(np.float64) / temperature, labels).confidence
    limit, unlike_rate = find_limit(distances)
    near = distances <= limit
    answered: dict[str, Any] = {"threshold": None, "error_rate": error_rate, "error_rate_bound": None}
    if error_rate is None:
        undefined["threshold"] = "no error rate was asked for"
    else:
        found = find_threshold(confidence[near], correct[near], error_rate)
        answered |= {"threshold": found.value, "error_rate_bound": found.bound}
    given = near & (confidence >= (answered["threshold"] or 0.0))
    calibration = Calibration(
        temperature=temperature,
        threshold=answered["threshold"] or 0.0,
        error_rate=1.0 if error_rate is None else error_rate,
        limit=limit,
        unlike_rate=unlike_rate,
        n=n,
        data="",
        undefined=undefined,
    )
    return calibration, {
        "n": n,
        "top1": float(correct.mean()),
        **report,
        "limit": limit,
        "unlike_rate": unlike_rate,
        "unlike": int((~near).sum()),
        **answered,
        "answered": int(given.sum()),
        "errors": int((given & ~correct).sum()),
        "undefined": undefined,
    }


def find_limit(distances: np.ndarray, rate: float = UNLIKE_RATE) -> tuple[float, float]:
    """Return the limit beyond which a further picture like these lies with at most a rate, and that rate.

    It is a value among the distances (n,): of n + 1 pictures of one kind, each is as likely as any other to be the
    k-th (split conformal prediction, Vovk et al. 2005). Fewer than 99 cannot show 1 %: then the rate is 1 / (n + 1).
    """
    n = len(distances)
    k = min(math.ceil((1 - rate) * (n + 1)), n)
    return float(np.sort(distances)[k - 1]), 1 - k / (n + 1)


def _temperature(logits: np.ndarray, labels: np.ndarray, undefined: dict[str, str]) -> tuple[float, dict[str, Any]]:
    """Return the temperature and its figures; it stays 1, with the reason, where nothing tells another."""
    try:
        found = fit_temperature(logits, labels)
        value, interval = found.value, list(found.interval)
    except DataError as error:
        undefined["temperature"] = str(error)
        value, interval = 1.0, None
    log_loss, ece = {}, {}
    for side, divisor in (("before", 1.0), ("after", value)):
        probabilities = Probabilities.of(logits.astype(np.float64) / divisor, labels)
        log_loss[side] = float(probabilities.surprise.mean())
        ece[side] = expected_calibration_error(probabilities.confidence, logits.argmax(axis=1) == labels)
    return value, {"temperature": value, "temperature_ci95": interval, "log_loss": log_loss, "ece": ece}


def _check_options(out: Path, split: str, error_rate: float | None) -> None:
    if split != SPLIT:
        why = _WHY.get(split, "it is the one that chose the weights, and neither trained nor tests them")
        raise ConfigError(f"calibration is for the split {SPLIT!r}, got {split!r}: {why}")
    if error_rate is not None and not 0 < error_rate < 1:
        raise ConfigError(f"error_rate must lie between 0 and 1, such as 0.02, got {error_rate}")
    if out.suffix != ".safetensors":
        raise ConfigError(f"a model file ends in .safetensors, got {out}")
    if os.path.lexists(out):
        raise Error(f"{out} exists: choose another --out")


def _check_task(model: str, header: Header) -> None:
    if header.task != "classification":
        raise ConfigError(
            f"calibration is for networks that give each picture one class, and {model} is for {header.task}"
        )
    if len(header.classes) < 2:
        raise ConfigError(f"{model} has fewer than two classes: there is no other class to be unsure about")


def _check_classes(held: Pictures, data: str | Path) -> None:
    present = np.unique(held.index.labels)
    if len(present) < 2:
        raise DataError(
            f"the {SPLIT!r} pictures of {data} are all of the class {held.index.classes[int(present[0])]!r}: how sure "
            "answers may be is undefined until two classes or more are present"
        )


def _some(trained: Pictures, classes: int) -> Samples:
    """Return training pictures evenly taken: as many as tell what features of their kind look like."""
    n = len(trained.index.paths)
    most = max(_FEWEST, _EACH * classes)
    return trained.take(np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()).samples


def _ask(
    classifier: Classifier, samples: Samples, progress: Counter | None, before: int, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw logits (n, K) and the pooled features (n, d) of pictures."""

    def count(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    rows = ask_each(classifier.answer_with_features, samples, classifier.header.preprocessing, progress=count)
    logits, features = zip(*rows, strict=True)
    return np.concatenate(logits), np.concatenate(features)
