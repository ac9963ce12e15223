"""The figures of a network that answers with a number. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnetv2.evaluation.intervals import Statistic, bootstrap_intervals
from resnetv2.evaluation.undefined import ratio

QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


def regression_report(answers: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Return the figures of ``evaluate`` for a number a picture.

    Args:
        answers: float (N, 1) or (N,), N above 0.
        targets: float (N,).

    Returns:
        ``n``; ``mae``, ``rmse``, ``r2`` and ``bias`` (the mean of answer - target), each with its 95 % interval as
        ``…_ci95`` = [low, high] (bootstrap over pictures); ``error_quantiles``: the size of the error that this share
        of the pictures does not exceed, by share; ``undefined``: why a figure is None, by its name.
    """
    targets = targets.astype(np.float64)
    errors = answers.reshape(-1).astype(np.float64) - targets
    n, middle = len(targets), targets.mean()
    columns = np.stack([np.abs(errors), errors**2, errors, targets - middle, (targets - middle) ** 2], axis=1)
    figures: dict[str, Statistic] = {
        "mae": lambda means: means[..., 0],
        "rmse": lambda means: np.sqrt(means[..., 1]),
        "r2": lambda means: 1 - ratio(means[..., 1], means[..., 4] - means[..., 3] ** 2),
        "bias": lambda means: means[..., 2],
    }
    undefined: dict[str, str] = {}
    if n == 1 or not columns[:, 4].any():
        del figures["r2"]
        undefined["r2"] = undefined["r2_ci95"] = "all targets are the same"
    intervals = bootstrap_intervals(columns, figures) if n > 2 else {}
    if n <= 2:
        undefined |= {f"{name}_ci95": "an interval needs three pictures" for name in figures}
    report: dict[str, Any] = {"n": n}
    for name in ("mae", "rmse", "r2", "bias"):
        report[name] = float(figures[name](columns.mean(axis=0))) if name in figures else None
        report[f"{name}_ci95"] = list(intervals[name]) if name in intervals else None
    quantiles = np.quantile(np.abs(errors), QUANTILES).tolist()
    return report | {
        "error_quantiles": {f"{share:g}": size for share, size in zip(QUANTILES, quantiles, strict=True)},
        "undefined": undefined,
    }
