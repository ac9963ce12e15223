"""What every runtime offers: uint8 pictures in, logits or features out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from resnetv2.errors import ConfigError, ModelFileError

THREADS = "OMP_NUM_THREADS"  # how many threads infer, in every runtime; unset, each takes the processor's cores
POOLED = "pooled"
_FULL = ("out of memory", "bad_alloc", "bad allocation", "allocate memory", "not enough memory")  # the runtimes' words


class Session(Protocol):
    """Whatever turns uint8 pictures (N, H, W, 3) RGB into logits float32 (N, num_classes).

    Scaling and normalisation are inside. A picture gets the same answer in any batch, to float32 rounding.

    Attributes:
        runtime: a key of ``choice.RUNTIMES``, which computes.

    Raises:
        MemoryError: so many pictures at once do not fit into the device's memory.
        ModelFileError: logits that are not finite.
    """

    runtime: str

    def __call__(self, pictures: np.ndarray) -> np.ndarray: ...

    def features(self, pictures: np.ndarray, layer: str = POOLED) -> np.ndarray:
        """Return float32 features of uint8 pictures (N, H, W, 3) RGB.

        Args:
            pictures: as above.
            layer: "pooled" is what the network's head classifies, (N, num_features). "stage1", "stage2" … are the maps
                of ``ResNetV2.forward_maps``, (N, C, h, w): "stage3" of ResNet50-v2 is the input of its last stage.

        Raises:
            ConfigError: no such layer here.
        """
        ...

    def with_features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits float32 (N, num_classes) and pooled features float32 (N, num_features), computed at once."""
        ...


def count_threads() -> int:
    """Return how many threads ``OMP_NUM_THREADS`` asks for, which PyTorch reads by itself; 0 where it does not say."""
    first = os.environ.get(THREADS, "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


@contextmanager
def one_memory_error() -> Iterator[None]:
    """Raise MemoryError for what every runtime raises under a name of its own when memory does not suffice."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # each has a class of its own
        if any(words in str(error).lower() for words in _FULL):
            raise MemoryError(str(error)) from error
        raise


def check_finite(logits: np.ndarray) -> np.ndarray:
    """Return logits, unless weights that are damaged made something else of them.

    Raises:
        ModelFileError: NaN or infinity.
    """
    if not np.isfinite(logits).all():
        raise ModelFileError("the network answers with NaN or infinity: its weights are damaged")
    return logits


def check_layer(layer: str, known: Sequence[str]) -> str:
    """Return the layer, if it is known.

    Raises:
        ConfigError: it is not.
    """
    if layer not in known:
        raise ConfigError(f"no layer {layer!r} here: choose from {', '.join(known)}")
    return layer
