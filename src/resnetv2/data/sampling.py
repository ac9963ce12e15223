"""In which order an epoch takes the pictures, and which of them more than once."""

from __future__ import annotations

import numpy as np

_REPEATS = 3


def natural_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return every place of labels (n,) once, shuffled."""
    return rng.permutation(len(labels))


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return n places of labels (n,), shuffled, in which every class that is there comes equally often.

    Numbers that do not divide differ by one: how often a class comes, and how often each of its pictures does.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    quotas = np.full(len(counts), len(labels) // len(counts))
    quotas[rng.permutation(len(counts))[: len(labels) % len(counts)]] += 1
    parts = []
    for places, quota in zip(members, quotas, strict=True):
        whole, rest = divmod(int(quota), len(places))
        parts += [np.tile(places, whole), rng.permutation(places)[:rest]]
    return rng.permutation(np.concatenate(parts))


def repeated_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return n places of labels (n,): a third of the pictures, each three times in a row, in other views.

    Repeated augmentation (Hoffer et al. 2019, arXiv 1901.09335; three times as in DeiT, arXiv 2012.12877).
    """
    return rng.permutation(len(labels))[: -(-len(labels) // _REPEATS)].repeat(_REPEATS)[: len(labels)]


ORDERS = {"natural": natural_order, "balanced": balanced_order, "repeated": repeated_order}


def count_repeats(order: np.ndarray) -> np.ndarray:
    """Return for each of n places how often it came before, int64 (n,)."""
    by_place = np.argsort(order, kind="stable")
    ordered = order[by_place]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(order)]
    positions = np.arange(len(order))
    repeats = np.empty(len(order), np.int64)
    repeats[by_place] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return repeats


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return weights, float64 (classes,), in inverse proportion to each class's number; their mean over labels is 1.

    Args:
        labels: int (n,), every class at least once.
        classes: how many there are.
    """
    weights: np.ndarray = len(labels) / (classes * np.bincount(labels, minlength=classes))
    return weights


def present_weights(labels: np.ndarray) -> np.ndarray:
    """Return for each class how many pictures lack it for one that has it, float64 (classes,).

    Args:
        labels: 0 and 1, (n, classes), every class at least once.
    """
    having = labels.sum(axis=0, dtype=np.int64)
    weights: np.ndarray = np.maximum(len(labels) - having, 1) / having
    return weights
