"""Weights between a publisher's names and ours: a table of rules, read forwards or backwards, whole or not at all.

A rule is (their tensor, our tensor, what to do with the numbers). Every operation has an exact inverse: numbers are
moved, never computed, so that a tensor written back has the bytes it was read with. float16 alone is widened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.errors import ConvertError
from resnetv2.shapes import tensor_shapes

_NAMED = 12  # names of one kind in a message; the rest is counted

Shape = tuple[int, ...]


class Rule(NamedTuple):
    """Which tensor of theirs is which of ours, and the operation that leads from theirs to ours."""

    theirs: str
    ours: str
    op: str


class Op(NamedTuple):
    """What to do with the numbers, and back."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


OPS = {
    "same": Op(lambda a: a, lambda a: a),
    "conv": Op(lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),  # HWIO <-> OIHW
    "dense": Op(lambda a: a.T, lambda a: a.T),  # (in, out) <-> (out, in)
    "conv_dense": Op(lambda a: a[0, 0].T, lambda a: a.T[None, None]),  # 1x1 HWIO <-> (out, in)
    "pointwise": Op(lambda a: a[:, :, 0, 0], lambda a: a[:, :, None, None]),  # (out, in, 1, 1) <-> (out, in)
    "ones": Op(np.ones_like, np.ones_like),  # a scale their framework ignores: what is stored, if anything, is not used
}


def read(source: Mapping[str, np.ndarray], rules: Iterable[Rule], config: ResNetV2Config) -> dict[str, np.ndarray]:
    """Return the weights of ``source`` by our names, laid out as ours; float16 as float32, float64 as it is.

    Args:
        source: their tensors by name; nothing in it may be left over.
        rules: the publisher's table for this config.
        config: the network that the weights are for.

    Raises:
        ConvertError: tensors that are absent, unused, unfilled, of another shape or kind, or not finite; all in one.
    """
    rules = list(rules)
    shapes = tensor_shapes(config)
    _raise("the weights do not fit", {**misfits(source, rules, shapes), **_unusable(source)})
    weights = {}
    for rule in rules:
        if rule.op == "ones":
            weights[rule.ours] = np.ones(shapes[rule.ours], np.float32)
        else:
            value = OPS[rule.op].read(source[rule.theirs])
            dtype = np.float32 if value.dtype == np.float16 else value.dtype
            weights[rule.ours] = np.array(value, dtype, order="C")  # a copy: files are read-only
    return weights


def write(weights: Mapping[str, np.ndarray], rules: Iterable[Rule], config: ResNetV2Config) -> dict[str, np.ndarray]:
    """Return our ``weights`` by their names, laid out as theirs: the inverse of ``read``.

    Raises:
        ConvertError: tensors that are absent, unknown, without a place in their format, or of another shape; all in
            one.
    """
    rules = list(rules)
    shapes = tensor_shapes(config)
    kept = {rule.ours for rule in rules}
    problems = {
        "absent": [name for name in shapes if name not in weights],
        "not in the network": [name for name in weights if name not in shapes],
        "without a place in this format": [name for name in weights if name in shapes and name not in kept],
        "of another shape": [_differs(n, weights[n].shape, s) for n, s in shapes.items() if _other(weights, n, s)],
        "scales that this format cannot hold because its readers ignore them": [
            rule.ours for rule in rules if rule.op == "ones" and np.any(weights.get(rule.ours, 1) != 1)
        ],
    }
    _raise("the weights cannot be written", problems)
    return {rule.theirs: np.ascontiguousarray(OPS[rule.op].write(weights[rule.ours])) for rule in rules}


def misfits(
    source: Mapping[str, np.ndarray], rules: Sequence[Rule], shapes: Mapping[str, Shape]
) -> dict[str, list[str]]:
    """Return what keeps ``source`` from filling the tensors ``shapes`` by ``rules``: kind of problem -> tensors.

    No number is looked at: views without memory behind them will do.
    """
    used = {rule.theirs for rule in rules}
    filled = {rule.ours for rule in rules}
    expected = {r.theirs: their_shape(r, shapes[r.ours]) for r in rules if r.ours in shapes}
    return {
        "absent": [rule.theirs for rule in rules if rule.theirs not in source and rule.op != "ones"],
        "unused": [name for name in source if name not in used],
        "unfilled": [name for name in shapes if name not in filled],
        "of another shape": [_differs(n, source[n].shape, s) for n, s in expected.items() if _other(source, n, s)],
    }


def their_shape(rule: Rule, shape: Shape) -> Shape:
    """Return the shape that a tensor of ours has in their file."""
    return OPS[rule.op].write(np.broadcast_to(np.float32(0), shape)).shape


def report(problems: Mapping[str, Sequence[str]]) -> str:
    """Return one line for each kind of problem there is; empty if there is none."""
    lines = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"  {kind}: {', '.join(names[:_NAMED])}{more}")
    return "\n".join(lines)


def _raise(summary: str, problems: Mapping[str, Sequence[str]]) -> None:
    text = report(problems)
    if text:
        raise ConvertError(f"{summary}\n{text}")


def _unusable(source: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    floats = {name: value for name, value in source.items() if value.dtype.kind == "f"}
    return {
        "not of floating point": [f"{name} ({source[name].dtype})" for name in source if name not in floats],
        "holding NaN or infinite numbers": [name for name, value in floats.items() if not np.isfinite(value).all()],
    }


def _other(tensors: Mapping[str, np.ndarray], name: str, shape: Shape) -> bool:
    return name in tensors and tensors[name].shape != shape


def _differs(name: str, got: Shape, expected: Shape) -> str:
    return f"{name} is {_spell(got)} instead of {_spell(expected)}"


def _spell(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a single number"
