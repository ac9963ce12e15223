"""Two models on the same pictures: what they differ in, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import check_policy
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.answers import Pictures, ask, find_pictures
from resnetv2.evaluation.intervals import (
    Z95,
    bootstrap_intervals,
    jackknife_error,
    mcnemar,
    paired_difference_interval,
)
from resnetv2.evaluation.probabilities import Probabilities
from resnetv2.evaluation.ranking import Ranking
from resnetv2.inference import Classifier, read_logits, read_model
from resnetv2.runtime.choice import AUTO
from resnetv2.weights.modelfile import Header

BEST = "best.safetensors"  # of a run's folder
DOUBT = 0.05


@dataclass(frozen=True)
class Pair:
    """Logits (N, K) of two models for the same pictures, both in the order of the classes, and the truth."""

    header: Header
    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray


def compare(
    first: str | Path | Classifier,
    second: str | Path | Classifier,
    *,
    data: str | Path,
    split: str = "test",
    batch_size: int = 32,
    device: str = "auto",
    runtime: str = AUTO,
    on_bad_image: str = "error",
    progress: Counter | None = None,
) -> dict[str, Any]:
    """Compare two models picture by picture.

    Each model is asked about the split of its own run; only pictures that are in both count, so that neither was
    trained on any of them.

    Args:
        first, second: model files, artefacts, folders of runs (their ``best.safetensors``), or loaded classifiers.
        data, split, batch_size, device, runtime, on_bad_image: as ``evaluate`` takes them.
        progress: called with the answers done and the total, of both.

    Returns:
        ``first``, ``second``, ``data``, ``split``, ``task``, ``n``; ``figures``: by name, ``first``, ``second`` and
        ``difference`` (second - first) with ``difference_ci95``; ``only_first``, ``only_second``: pictures that one
        alone has right, and ``p``, McNemar's exact test of them (not for numbers); ``verdict``, a sentence; ``differ``:
        the pictures that get different answers: path, label, first and second; ``left_out``: pictures in the split of
        one model alone; ``skipped``: as ``evaluate``.

    Raises:
        ConfigError: the models have different tasks or classes, which are listed.
        DataError: no picture is in both splits; and as ``evaluate``.
    """
    check_policy(on_bad_image)
    names = [_name(model) for model in (first, second)]
    models = [
        model if isinstance(model, Classifier) else read_model(name)
        for model, name in zip((first, second), names, strict=True)
    ]
    order = _same_classes(models[0].header, models[1].header)
    found = [
        find_pictures(model.header, name, data, split, on_bad_image) for model, name in zip(models, names, strict=True)
    ]
    (pictures, others), left_out = _in_both(*found)
    samples, total = pictures.samples, 2 * len(pictures.index.paths)
    logits = []
    for number, (model, own) in enumerate(zip(models, (pictures, others), strict=True)):
        counted = None if progress is None else _half(progress, number * len(samples), total)
        ready = model if isinstance(model, Classifier) else Classifier.from_file(model, device, runtime, len(samples))
        logits.append(ask(ready, own.samples, batch_size=batch_size, progress=counted))
    pair = Pair(models[0].header, logits[0], logits[1][:, order], samples.labels)
    return {
        "first": names[0],
        "second": names[1],
        "data": str(data),
        "split": split,
        "task": pair.header.task,
        "n": len(samples),
        **COMPARISONS[pair.header.task](pair),
        "differ": _differences(pair, pictures),
        "left_out": left_out,
        "skipped": pictures.skipped,
    }


def _name(model: str | Path | Classifier) -> str:
    if isinstance(model, Classifier):
        return ""
    return str(Path(model) / BEST) if (Path(model) / BEST).is_file() else str(model)


def _same_classes(first: Header, second: Header) -> list[int]:
    """Return the places of the first model's classes among the second's."""
    if first.task != second.task:
        raise ConfigError(f"the models have different tasks: {first.task} and {second.task}")
    strangers = [
        f"only the {which} model has {', '.join(map(repr, sorted(own - other)[:12]))}"
        for which, own, other in (
            ("first", set(first.classes), set(second.classes)),
            ("second", set(second.classes), set(first.classes)),
        )
        if own - other
    ]
    if strangers:
        raise ConfigError(f"the models have different classes: {'; '.join(strangers)}")
    number = {name: i for i, name in enumerate(second.classes)}
    return [number[name] for name in first.classes]


def _in_both(first: Pictures, second: Pictures) -> tuple[tuple[Pictures, Pictures], int]:
    """Return the pictures that both have, in the same order, and how many only one has."""
    places = {path: i for i, path in enumerate(second.index.paths)}
    common = [(i, places[path]) for i, path in enumerate(first.index.paths) if path in places]
    if not common:
        raise DataError("no picture is in this split of both models' runs: compare them on data that neither has seen")
    left_out = len(first.index.paths) + len(second.index.paths) - 2 * len(common)
    return (first.take([i for i, _ in common]), second.take([j for _, j in common])), left_out


def _half(progress: Counter, before: int, total: int) -> Counter:
    return lambda done, _: progress(before + done, total)


# --- by task ---


def compare_classes(pair: Pair) -> dict[str, Any]:
    """Return top-1, log loss and Brier's score of a pair, with McNemar's test of who is right."""
    sides = [Probabilities.of(logits, pair.labels) for logits in (pair.first, pair.second)]
    right = [logits.argmax(axis=1) == pair.labels for logits in (pair.first, pair.second)]
    figures = {"top1": _share(right)}
    if len(pair.labels) > 1:
        figures |= {
            "log_loss": _mean([side.surprise for side in sides]),
            "brier": _mean([side.brier for side in sides]),
        }
    return _test(figures, right, "top-1")


def compare_labels(pair: Pair) -> dict[str, Any]:
    """Return the mean average precision and the share of wholly right pictures, with McNemar's test of the latter."""
    truth = pair.labels.astype(bool)
    right = [((logits >= 0) == truth).all(axis=1) for logits in (pair.first, pair.second)]
    figures = {"exact_match": _share(right)}
    columns = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    if columns and len(truth) > 1:
        ranked = [[Ranking.of(z[:, i], truth[:, i]) for i in columns] for z in (pair.first, pair.second)]
        values = [float(np.mean([ranking.average_precision() for ranking in side])) for side in ranked]
        without = [np.mean([ranking.average_precision_without_each() for ranking in side], axis=0) for side in ranked]
        half = Z95 * jackknife_error(without[1] - without[0])
        figures["map"] = _figure(values, (values[1] - values[0] - half, values[1] - values[0] + half))
    return _test(figures, right, "all labels right")


def compare_numbers(pair: Pair) -> dict[str, Any]:
    """Return the mean absolute error and the root mean squared error of a pair."""
    targets = pair.labels.astype(np.float64)
    errors = [np.abs(answers.reshape(-1).astype(np.float64) - targets) for answers in (pair.first, pair.second)]
    if len(targets) < 3:
        raise DataError(f"comparing numbers takes three pictures, there are {len(targets)}")
    squares = np.stack([error**2 for error in errors], axis=1)
    interval = bootstrap_intervals(squares, {"rmse": lambda means: np.sqrt(means[..., 1]) - np.sqrt(means[..., 0])})
    figures = {"mae": _mean(errors), "rmse": _figure(np.sqrt(squares.mean(axis=0)).tolist(), interval["rmse"])}
    low, high = figures["mae"]["difference_ci95"]
    is_told = low > 0 or high < 0
    verdict = _verdict(is_told, "second" if high < 0 else "first", "its mean absolute error is lower", len(targets))
    return {"figures": figures, "verdict": verdict}


COMPARISONS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "classification": compare_classes,
    "multilabel": compare_labels,
    "regression": compare_numbers,
}


def _test(figures: dict[str, Any], right: list[np.ndarray], what: str) -> dict[str, Any]:
    """Return figures with McNemar's test of who is right, and the verdict."""
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = mcnemar(only_first, only_second)
    better = "second" if only_second > only_first else "first"
    verdict = _verdict(p < DOUBT, better, f"{what} is higher by more than chance (p = {p:.2g})", len(right[0]))
    scores = _tell_scores(figures)
    if p >= DOUBT and scores:
        verdict = f"By {what} {_say_open(len(right[0]))}{scores}"
    return {"figures": figures, "only_first": only_first, "only_second": only_second, "p": p, "verdict": verdict}


def _tell_scores(figures: Mapping[str, Any]) -> str:
    """Return a sentence on probabilities that differ where answers do not, "" if none do."""
    told = ""
    for key, name in (("log_loss", "Log loss"), ("brier", "Brier score"), ("map", "Mean average precision")):
        low, high = figures.get(key, {}).get("difference_ci95", (0, 0))
        if low > 0 or high < 0:
            told += f" {name} differs by more than chance: that of the {'second' if low > 0 else 'first'} is higher."
    return told


def _verdict(is_told: bool, better: str, why: str, n: int) -> str:
    if is_told:
        return f"The {better} model is better: {why}."
    return _say_open(n).capitalize()


def _say_open(n: int) -> str:
    these = "this picture" if n == 1 else f"these {n:,} pictures"
    return f"{these} cannot tell the two models apart."


def _share(right: list[np.ndarray]) -> dict[str, Any]:
    n = len(right[0])
    counts = [int((right[i] & ~right[1 - i]).sum()) for i in (0, 1)]
    return _figure([int(side.sum()) / n for side in right], paired_difference_interval(counts[0], counts[1], n))


def _mean(columns: list[np.ndarray]) -> dict[str, Any]:
    both = np.stack(columns, axis=1)
    if (both[:, 0] == both[:, 1]).all():
        return _figure(both.mean(axis=0).tolist(), (0.0, 0.0))
    interval = bootstrap_intervals(both, {"mean": lambda means: means[..., 1] - means[..., 0]})["mean"]
    return _figure(both.mean(axis=0).tolist(), interval)


def _figure(values: list[float], interval: tuple[float, float]) -> dict[str, Any]:
    return {
        "first": values[0],
        "second": values[1],
        "difference": values[1] - values[0],
        "difference_ci95": list(interval),
    }


def _differences(pair: Pair, pictures: Pictures) -> list[dict[str, Any]]:
    """Return the pictures that get different answers; of numbers, the most different first."""
    if pair.header.task == "regression":
        apart = np.abs(pair.first - pair.second).reshape(-1)
        places = [i for i in np.argsort(-apart, kind="stable").tolist() if apart[i] > 0]
    elif pair.header.task == "multilabel":
        places = np.flatnonzero(((pair.first >= 0) != (pair.second >= 0)).any(axis=1)).tolist()
    else:
        places = np.flatnonzero(pair.first.argmax(axis=1) != pair.second.argmax(axis=1)).tolist()
    return [
        {
            "path": pictures.index.paths[i],
            "label": pictures.index.label(i),
            "first": _answer(pair.first[i], pair.header),
            "second": _answer(pair.second[i], pair.header),
        }
        for i in places
    ]


def _answer(logits: np.ndarray, header: Header) -> Any:
    """Return a picture's answer: a label with its probability, labels, or a number."""
    answer = read_logits("", logits, header, 1)
    if answer.value is not None:
        return answer.value
    if answer.labels is not None:
        return list(answer.labels)
    return {"label": answer.label, "probability": answer.probability}
