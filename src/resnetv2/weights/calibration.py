"""What a model file knows of its own doubt: how far probabilities are to be believed, and when not to answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from resnetv2.errors import ConfigError
from resnetv2.plain import Plain

UNSURE = "not sure"
UNLIKE = "unlike the training data"
_RANGES = {
    "temperature": (0.0, math.inf),
    "threshold": (0.0, 1.0),
    "error_rate": (0.0, 1.0),
    "limit": (0.0, math.inf),
    "unlike_rate": (0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Calibration(Plain):
    """What ``calibrate`` found on the validation pictures; it says nothing of other pictures than such.

    Attributes:
        temperature: by which logits are divided before the softmax.
        threshold: the lowest probability that is answered; 0 where no error rate was asked for.
        error_rate: that what is answered keeps with 95 % certainty; 1 is no promise.
        limit: the greatest distance from the training data that is answered; see ``TrainingFeatures``.
        unlike_rate: the share of pictures like the validation pictures that is taken for unlike, at most, on average.
        n: pictures that all of it was found on.
        data: SHA-256 of their paths, labels and split.
        undefined: why a figure could not be found and has no effect, by its name.
    """

    noun: ClassVar[str] = "calibration field"

    temperature: float
    threshold: float
    error_rate: float
    limit: float
    unlike_rate: float
    n: int
    data: str
    undefined: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high or math.isinf(value):
                yield f"{name} must be a number from {low:g} to {high:g}, got {value!r}"
        if self.temperature == 0:
            yield "temperature must be above 0"
        if type(self.n) is not int or self.n < 1:
            yield f"n must be a whole number of at least 1, got {self.n!r}"
        if type(self.data) is not str:
            yield f"data must be a text, got {self.data!r}"
        if not isinstance(self.undefined, Mapping) or not all(isinstance(why, str) for why in self.undefined.values()):
            yield f"undefined must hold texts by name, got {self.undefined!r}"

    def reason(self, probability: float, distance: float) -> str | None:
        """Return why an answer with this probability, to a picture at this distance, is not given; None if it is."""
        if not distance <= self.limit:
            return UNLIKE
        return UNSURE if probability < self.threshold else None

    def scale(self, logits: np.ndarray) -> np.ndarray:
        """Return logits divided by the temperature, float64 of the same shape."""
        result: np.ndarray = logits.astype(np.float64) / self.temperature
        return result
