"""Figures that the data leaves undefined: None, with the reason beside them. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnetv2.data.manifest import shorten


def number(value: float) -> float | None:
    """Return a plain number, None for NaN."""
    return None if np.isnan(value) else float(value)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return quotients in float64, NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def mean_defined(values: np.ndarray) -> float | None:
    """Return the mean of those values that are not NaN; None without any."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else None


def named(what: str, classes: Sequence[str], where: np.ndarray) -> str | None:
    """Return the reason that concerns the classes ``where``, None if there are none."""
    names = [repr(classes[i]) for i in np.flatnonzero(where).tolist()]
    return f"{what}: {', '.join(shorten(names, most=12))}" if names else None
