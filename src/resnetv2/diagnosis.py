"""The check of a folder of pictures before training: what can be told from files, and which labels look wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.check import Item, Report, check_pictures, check_policy, item_of, make_finding, order_findings
from resnetv2.data.index import Index, Samples, read_index, refuse_inside
from resnetv2.data.load import Loader
from resnetv2.data.sheet import write_sheet
from resnetv2.errors import ConfigError, DataError, MissingExtra
from resnetv2.inference import Classifier
from resnetv2.pages.render import check_page

FOLDS = 5
_BATCH = 32
_STRENGTH = 10.0  # scikit-learn's C times the number of features: of 1, 3, 10, 30, 100 the best on flipped digits


def check(
    data: str | Path,
    *,
    html: str | Path | None = None,
    on_bad_image: str = "error",
    group_by: str | None = None,
    model: str | Path | None = None,
    progress: Counter | None = None,
) -> Report:
    """Find what is wrong with labelled pictures before training does.

    Args:
        data: a folder ``root/{train,val,test}/class/*`` or ``root/class/*``, or a manifest (CSV or Parquet), only read.
        html: a page to write that shows the findings with their pictures.
        on_bad_image: "error" or "skip", by which unreadable pictures are an error or a warning.
        group_by: a column of the CSV, or a regular expression on the path: pictures of which it says the same belong
            together, and are a finding where they are in different splits.
        model: a model file; with it, labels that look wrong are found, too.
        progress: called with the pictures done and the total.

    Returns:
        What was found; its ``ok`` is False if something is an error.

    Raises:
        DataError: no such data, ``group_by`` names nothing, or too few pictures in a class for ``model`` to learn it
            without them.
        ConfigError: an unknown ``on_bad_image``, ``html`` lies inside the data, or ``model`` with labels that are not
            of one class each.
        ModelFileError: ``model`` cannot be read.
        MissingExtra: scikit-learn, torch or jinja2 is needed and not installed.
        Error: ``html`` cannot be written.
    """
    data = Path(data)
    check_policy(on_bad_image)
    if html is not None:
        check_page(html)
        refuse_inside(html, data)
    index = read_index(data, group_by)
    index, examined, report = check_pictures(index, data, on_bad_image, progress)
    if model is not None:
        places = np.setdiff1d(np.arange(len(index.paths)), list(examined.reasons))
        suspects = _suspects(index, places, model, progress)
        if suspects:
            findings = order_findings([*report.findings, make_finding("suspect", suspects)])
            report = replace(report, findings=findings)
    if html is not None:
        write_sheet(Path(html), report, index)
    return report


def _suspects(index: Index, places: np.ndarray, model: str | Path, progress: Counter | None) -> list[Item]:
    """Return the pictures whose label looks wrong, the worst first; classes with too few pictures are left out."""
    if index.task != "classification":
        raise ConfigError("wrong labels are found among pictures of one class each: leave out --model")
    enough = np.bincount(index.labels[places], minlength=len(index.classes)) >= FOLDS
    places = places[enough[index.labels[places]]]
    if enough.sum() < 2:
        raise DataError(f"finding wrong labels takes two classes with {FOLDS} readable pictures each")
    features = _features(index, places, model, progress)
    numbers, labels = np.unique(index.labels[places], return_inverse=True)
    probabilities = out_of_fold(features, labels)
    chosen, suggested = find_suspects(probabilities, labels)
    return [
        item_of(index, int(places[i]), f"rather {index.classes[numbers[j]]} ({probabilities[i, j]:.0%})")
        for i, j in zip(chosen, suggested, strict=True)
    ]


def _features(index: Index, places: np.ndarray, model: str | Path, progress: Counter | None) -> np.ndarray:
    """Return what the model's head sees of each picture, float32 (n, num_features)."""
    classifier = Classifier.load(model, count=len(places))
    samples = Samples(tuple(index.place(i) for i in places), index.labels[places])
    rows: list[np.ndarray] = []
    for batch in Loader(samples, _BATCH, classifier.header.preprocessing).batches():
        rows.extend(classifier.session.features(batch.pictures))
        if progress is not None:
            progress(len(rows), len(samples))
    return np.stack(rows)


def out_of_fold(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return for each sample the class probabilities of a logistic regression that was fitted without it.

    Args:
        features: float (n, d).
        labels: int (n,), 0 … K - 1, each at least FOLDS times.
        seed: of the folds.

    Returns:
        float64 (n, K).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError as error:
        raise MissingExtra("finding wrong labels", "train") from error
    strength = _STRENGTH / features.shape[1]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    result: np.ndarray = cross_val_predict(classifier, features, labels, cv=folds, method="predict_proba")
    return result


def find_suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find wrong labels by confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068).

    A class's threshold is the mean probability that its own members have for it. A sample is confidently of the most
    probable class among those whose threshold it reaches; it is a suspect if that is not its label. Suspects are ranked
    by their normalized margin: the label's probability minus the largest of the others, the lowest first.

    Args:
        probabilities: float (n, K), of models that did not see the sample.
        labels: int (n,), every class at least once.

    Returns:
        The suspects' places (m,) and the classes suggested for them (m,).
    """
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    thresholds = np.bincount(labels, given) / np.bincount(labels)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    suggested = confident.argmax(axis=1)
    others = probabilities.copy()
    others[rows, labels] = -1
    margins = given - others.max(axis=1)
    suspects = np.flatnonzero((suggested != labels) & (confident.max(axis=1) > 0))
    suspects = suspects[np.argsort(margins[suspects], kind="stable")]
    return suspects, suggested[suspects]
