"""What a publisher is: how it spells a network's tensors, and how its networks are told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from resnetv2.config import DIALECTS, ResNetV2Config
from resnetv2.conversion.rules import OPS, Rule
from resnetv2.errors import ConvertError
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import Module, modules

Tensors = Mapping[str, np.ndarray]
Style = Mapping[str, Mapping[str, tuple[str, str]]]  # kind of module -> our tensor -> (their name, {} the module; op)
Dialects = Callable[[Tensors, Mapping[str, Any]], Mapping[str, dict[str, Any]]]

_UNIT = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)")

_CLASSES = {"conv": "conv2d", "norm": "batch_normalization", "dense": "dense"}

PLAIN: Style = {  # PyTorch's names and layouts
    "conv": {"weight": ("{}.weight", "same"), "bias": ("{}.bias", "same")},
    "norm": {tensor: (f"{{}}.{tensor}", "same") for tensor in ("weight", "bias", "running_mean", "running_var", "v")},
    "dense": {"weight": ("{}.weight", "same"), "bias": ("{}.bias", "same")},
}

TENSORFLOW: Style = {  # names and layouts of TensorFlow's and Keras's layers
    "conv": {"weight": ("{}/kernel", "conv"), "bias": ("{}/bias", "same")},
    "norm": {
        "weight": ("{}/gamma", "same"),
        "bias": ("{}/beta", "same"),
        "running_mean": ("{}/moving_mean", "same"),
        "running_var": ("{}/moving_variance", "same"),
    },
    "dense": {"weight": ("{}/kernel", "dense"), "bias": ("{}/bias", "same")},
}


class Geometry(NamedTuple):
    """How a publisher prepares pictures, and what of that ``Preprocessing`` cannot say exactly ("": nothing)."""

    preprocessing: Preprocessing
    caveat: str


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """One publisher's spelling of the networks."""

    name: str  # "keras"
    title: str  # "Keras Applications"
    style: Style
    names: Callable[[ResNetV2Config], dict[str, str]]  # our module -> theirs; a module they lack is absent
    dialects: Dialects  # the graphs that these tensors may belong to: label -> fields of ResNetV2Config
    geometry: Callable[[ResNetV2Config], Geometry]
    order: Callable[[ResNetV2Config], Iterable[Module]] = modules  # in which their file has the modules
    aliases: tuple[tuple[str, str], ...] = ()  # (pattern, replacement): takes prefixes and counters off their names
    ignored: str = r"(?!)"  # names of tensors that are no weights, as a pattern; by default none
    as_trained: tuple[dict[str, Any], Geometry] | None = (
        None  # config fields and pictures the weights were trained with
    )
    background: bool = False  # class 0 of 1001 is the background
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = (
        dict  # takes in what our network has no place for
    )

    def tidy(self, source: Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the weights by their plain names, and the names of the known extras that were left out.

        Raises:
            ConvertError: two tensors have the same plain name.
        """
        weights: dict[str, np.ndarray] = {}
        extras, twice = [], []
        for name, value in source.items():
            plain = name
            for pattern, replacement in self.aliases:
                plain = re.sub(pattern, replacement, plain)
            if re.search(self.ignored, plain):
                extras.append(name)
            elif plain in weights:
                twice.append(name)
            else:
                weights[plain] = value
        if twice:
            raise ConvertError(f"{self.title}: names that mean the same tensor twice: {', '.join(twice[:12])}")
        return self.prepare(weights), extras

    def rules(self, config: ResNetV2Config) -> list[Rule]:
        """Return the table that leads from their tensors to those of ``ResNetV2(config)``."""
        names, rules = self.names(config), []
        for module in self.order(config):
            for tensor in module.tensors:
                if module.name in names and tensor in self.style[module.kind]:
                    spelling, op = self.style[module.kind][tensor]
                    if module.name == "input_norm" and tensor == "weight":
                        op = "ones"
                    rules.append(Rule(spelling.format(names[module.name]), f"{module.name}.{tensor}", op))
        return rules

    def configs(self, tensors: Tensors) -> dict[str, ResNetV2Config]:
        """Return the networks that tidied ``tensors`` may be, by dialect; empty if they are not of this publisher.

        Depths, width, input channels and classes are counted from names and shapes; what leaves no trace there, such
        as padding and epsilon, is the dialect's.
        """
        measured = self._measure(tensors)
        if measured is None:
            return {}
        found = {}
        for label, fields in self.dialects(tensors, measured).items():
            stages = len(measured["depths"])
            strides = {} if stages == 4 else {"stage_strides": (1,) + (2,) * (stages - 1)}
            found[label] = ResNetV2Config.from_dict({**fields, **measured, **strides})
        return found

    def _measure(self, tensors: Tensors) -> dict[str, Any] | None:
        plain, deep = (self.names(ResNetV2Config(stem=stem)) for stem in ("7x7", "deep"))
        stem = last = self._kernel(tensors, plain.get("stem.conv"))
        if stem is None:
            stem, last = (self._kernel(tensors, deep.get(f"stem.{conv}")) for conv in ("conv1", "conv3"))
        if stem is None or last is None:
            return None
        kind = "deep" if stem is not last else f"{stem.shape[2]}x{stem.shape[3]}"
        spelling, op = self.style["dense"]["weight"]
        head = spelling.format(plain["head.fc"])
        kernels = list(self._kernels(tensors, head))
        counted = count_units(last.shape[0], [kernel.shape for kernel in kernels])
        if counted is None or kind not in ("7x7", "deep", "3x3"):
            return None
        classes = OPS[op].read(tensors[head]).shape[0] if head in tensors and tensors[head].ndim in (2, 4) else 0
        fields = {"stem": kind, "in_chans": stem.shape[1], "width_factor": last.shape[0] / 64, "num_classes": classes}
        return {**fields, **counted}

    def _kernel(self, tensors: Tensors, module: str | None) -> np.ndarray | None:
        spelling, op = self.style["conv"]["weight"]
        value = None if module is None else tensors.get(spelling.format(module))
        return None if value is None or value.ndim != 4 else OPS[op].read(value)

    def _kernels(self, tensors: Tensors, head: str) -> Iterator[np.ndarray]:
        op = self.style["conv"]["weight"][1]
        for name, value in tensors.items():
            if value.ndim == 4 and name != head:
                yield OPS[op].read(value)


def count_units(stem: int, kernels: list[tuple[int, ...]]) -> dict[str, Any] | None:
    """Return ``block`` and ``depths`` of a network from its stem's channels and the shapes (O, I, H, W) of its kernels.

    A bottleneck has one square 3x3 kernel, a basic unit two 3x3 kernels, as wide as their stage. None if there is no
    such network.
    """
    threes = [(o, i) for o, i, h, w in kernels if (h, w) == (3, 3)]
    widest = max((o for o, *_ in kernels), default=0)
    bottleneck = all(o < widest for o, _ in threes)
    depths = []
    width = stem
    while bottleneck or width <= widest:
        inputs = (width,) if bottleneck or width == stem else (width, width // 2)
        count = sum(o == width and i in inputs for o, i in threes)
        depth, rest = (count, 0) if bottleneck else divmod(count, 2)
        if depth == 0 or rest:
            break
        depths.append(depth)
        width *= 2
    return {"block": "bottleneck" if bottleneck else "basic", "depths": tuple(depths)} if depths else None


def name_modules(
    config: ResNetV2Config, fixed: Mapping[str, str], unit: Callable[[int, int, str], str | None]
) -> dict[str, str]:
    """Return their name for each of our modules: ``fixed`` outside the units, ``unit(stage, number, part)`` within."""
    names = {}
    for module in modules(config):
        match = _UNIT.fullmatch(module.name)
        name = unit(int(match[1]), int(match[2]), match[3]) if match else fixed.get(module.name)
        if name is not None:
            names[module.name] = name
    return names


def count_modules(order: Iterable[Module], prefix: str = "") -> dict[str, str]:
    """Return TensorFlow's name for each module: its layer's class, numbered in this order, the first without number."""
    names = {}
    counts = dict.fromkeys(_CLASSES, 0)
    for module in order:
        number = counts[module.kind]
        counts[module.kind] += 1
        names[module.name] = prefix + _CLASSES[module.kind] + (f"_{number}" if number else "")
    return names


def always(dialect: str, **changes: Any) -> Dialects:
    """Return the answer of a publisher that has one graph."""
    return lambda tensors, measured: {dialect: {**DIALECTS[dialect], **changes}}  # noqa: ARG005
