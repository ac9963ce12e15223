"""The headline figures of each task, the most important first. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of each task: a figure's key ("macro.f1" is report["macro"]["f1"]), its name, how it is written.
FIGURES = {
    "classification": (
        ("top1", "top-1", "{:.2%}"),
        ("top5", "top-5", "{:.2%}"),
        ("balanced_accuracy", "balanced accuracy", "{:.2%}"),
        ("macro.f1", "macro F1", "{:.2%}"),
        ("roc_auc", "ROC-AUC", "{:.4f}"),
        ("average_precision", "average precision", "{:.2%}"),
        ("log_loss", "log loss", "{:.4f}"),
        ("brier", "Brier score", "{:.4f}"),
        ("ece", "calibration error", "{:.2%}"),
    ),
    "multilabel": (
        ("map", "mean average precision", "{:.2%}"),
        ("exact_match", "all labels right", "{:.2%}"),
        ("macro.f1", "macro F1", "{:.2%}"),
        ("roc_auc", "ROC-AUC", "{:.4f}"),
    ),
    "regression": (
        ("mae", "mean absolute error", "{:.4g}"),
        ("rmse", "root mean squared error", "{:.4g}"),
        ("r2", "R²", "{:.4f}"),
        ("bias", "bias", "{:+.4g}"),
    ),
}


def read_figure(report: Mapping[str, Any], key: str) -> tuple[float | None, list[float] | None]:
    """Return a headline figure of a report and its 95 % interval, None where they are undefined."""
    *outer, name = key.split(".")
    for part in outer:
        report = report[part]
    return report[name], report[f"{name}_ci95"]
