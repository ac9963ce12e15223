"""What a calibrated model answers when it may abstain, and how often that is right. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.inference import softmax
from resnetv2.weights.calibration import Calibration


def abstention_report(
    logits: np.ndarray, labels: np.ndarray, distances: np.ndarray, calibration: Calibration
) -> dict[str, Any]:
    """Return how many pictures are answered, and how often rightly.

    Args:
        logits: float (n, K), divided by the temperature.
        labels: int (n,).
        distances: float (n,), from the training data.
        calibration: of the model.

    Returns:
        ``answered``, a count, and ``coverage``, its share, with ``coverage_ci95``; ``unsure`` and ``unlike``, counts of
        the others; ``accuracy`` of what is answered with ``accuracy_ci95``, None where nothing is; ``threshold``,
        ``error_rate`` and ``limit``, which say what is; ``undefined``: why a figure is None, by its name.
    """
    n, correct = len(labels), logits.argmax(axis=1) == labels
    confidence = np.concatenate([softmax(part).max(axis=1) for part in np.array_split(logits, -(-n // 1000))])
    unlike = distances > calibration.limit
    unsure = ~unlike & (confidence < calibration.threshold)
    given = ~unlike & ~unsure
    answered, right = int(given.sum()), int((given & correct).sum())
    return {
        "answered": answered,
        "coverage": answered / n,
        "coverage_ci95": list(wilson_interval(answered, n)),
        "unsure": int(unsure.sum()),
        "unlike": int(unlike.sum()),
        "accuracy": right / answered if answered else None,
        "accuracy_ci95": list(wilson_interval(right, answered)) if answered else None,
        "threshold": calibration.threshold,
        "error_rate": calibration.error_rate,
        "limit": calibration.limit,
        "undefined": {} if answered else dict.fromkeys(("accuracy", "accuracy_ci95"), "no picture is answered"),
    }


def tell_abstention(report: dict[str, Any], calibration: Calibration, same: bool, is_mean: bool = False) -> str:
    """Return a sentence about ``abstention_report``.

    Args:
        report: of n pictures.
        calibration: of the model.
        same: whether these are the pictures that it was calibrated on.
        is_mean: whether probabilities are the mean over several views of each picture.
    """
    low, high = report["coverage_ci95"]
    text = (
        f"Probabilities are calibrated on {calibration.n:,} validation pictures"
        f"{', which are these: that flatters them' if same else ''} (temperature {calibration.temperature:.3g}). "
        f"When it may abstain, the model answers {report['answered']:,} pictures ({report['coverage']:.1%}, "
        f"{low:.1%} – {high:.1%})"
    )
    if report["answered"]:
        low, high = report["accuracy_ci95"]
        text += f", {report['accuracy']:.2%} of them rightly ({low:.2%} – {high:.2%})"
    are = "is" if report["unlike"] == 1 else "are"
    text += f"; it is not sure of {report['unsure']:,}, and {report['unlike']:,} {are} unlike its training data."
    if is_mean:
        text += " It was calibrated on one view of each picture: what that promises does not cover the mean of several."
    return text
