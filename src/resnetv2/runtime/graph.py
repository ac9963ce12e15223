"""The network as a list of ONNX's operators, from config and weights alone: what runs without PyTorch.

It answers as ``ResNetV2`` in ``eval()`` does, from uint8 pixels on, and is simplified where that is exact: a batch norm
that follows a convolution is folded into it (in float64, rounded once), standardised kernels are computed, and the
normalisation of the pixels is one multiplication and one addition. The batch norm at a unit's entry stays: its input
is also the shortcut, so no convolution can take it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from resnetv2.config import ResNetV2Config, Unit
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import check_shapes

INPUT, LOGITS, FEATURES = "pictures", "logits", "features"  # names in the graph, and in the artefacts made of it
OPSET = 17
_GROUPS = 32


class Node(NamedTuple):
    """One operator; its output has its name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Map(NamedTuple):
    """A value in the graph, float32 (N, channels, side, side)."""

    name: str
    channels: int
    side: int


@dataclass(frozen=True)
class Graph:
    """Nodes in order of execution, from ``pictures`` uint8 (N, side, side, 3) RGB to the outputs.

    Attributes:
        outputs: shape without N, by name: "logits" (unless there is no head) and "features", which are pooled.

    The maps of ``ResNetV2.forward_maps`` are within by the names that ``map_names`` gives.
    """

    side: int
    nodes: Sequence[Node]
    arrays: Mapping[str, np.ndarray]
    outputs: Mapping[str, tuple[int, ...]]


def build_graph(config: ResNetV2Config, preprocessing: Preprocessing, weights: Mapping[str, np.ndarray]) -> Graph:
    """Return the graph of a network.

    Args:
        config: of a network for RGB pictures.
        preprocessing: its ``image_size`` is the pictures' side, its mean and std are in the graph.
        weights: float32 by name, as a model file has them.

    Raises:
        ModelFileError: weights and config do not fit; every misfit is named.
    """
    check_shapes(config, weights)
    builder = _Builder(config, weights)
    x = builder.stem(builder.pixels(preprocessing))
    names = iter(map_names(config))
    for unit in config.units():
        if unit.stride == 2:
            x = builder.rename(x, next(names))
        x = builder.unit(unit, x)
    outputs = builder.head(builder.rename(builder.activate("norm", x), next(names)))
    return Graph(preprocessing.image_size, builder.nodes, builder.arrays, outputs)


def map_names(config: ResNetV2Config) -> list[str]:
    """Return what the maps of ``ResNetV2.forward_maps`` are called: "stage1", "stage2" …"""
    return [f"stage{number + 1}" for number in range(1 + sum(unit.stride == 2 for unit in config.units()))]


class _Builder:
    """Nodes, added one after the other; every method returns the value that it added."""

    def __init__(self, config: ResNetV2Config, weights: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.weights = weights
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(Node(op, name, inputs, attributes))
        return name

    def array(self, name: str, value: np.ndarray) -> str:
        self.arrays[name] = np.ascontiguousarray(value, np.float32 if value.dtype.kind == "f" else np.int64)
        return name

    def rename(self, x: Map, name: str) -> Map:
        """Give the newest value another name."""
        self.nodes[-1] = self.nodes[-1]._replace(name=name)
        return x._replace(name=name)

    def pixels(self, preprocessing: Preprocessing) -> Map:
        """Scale the pixels: the input norm, where there is one, is part of it."""
        std = np.asarray(preprocessing.std, np.float64)
        scale, shift = 1 / std, -np.asarray(preprocessing.mean, np.float64) / std
        if self.config.input_norm:
            by, plus = self._affine("input_norm")
            scale, shift = scale * by, shift * by + plus
        x = self.add("Transpose", "pixels.transpose", INPUT, perm=[0, 3, 1, 2])
        x = self.add("Cast", "pixels.cast", x, to=1)
        x = self.add("Mul", "pixels.mul", x, self.array("pixels.scale", scale.reshape(1, -1, 1, 1)))
        x = self.add("Add", "pixels.add", x, self.array("pixels.shift", shift.reshape(1, -1, 1, 1)))
        return Map(x, self.config.in_chans, preprocessing.image_size)

    def stem(self, x: Map) -> Map:
        if self.config.stem == "deep":
            x = self.conv_activate("stem.conv1", "stem.norm1", x, 2)
            x = self.conv_activate("stem.conv2", "stem.norm2", x)
            x = self.conv("stem.conv3", x)
        else:
            stride = 2 if self.config.stem == "7x7" else 1
            stem_norm = self.config.stem_norm
            x = (
                self.conv_activate("stem.conv", "stem.norm", x, stride)
                if stem_norm
                else self.conv("stem.conv", x, stride)
            )
        return x if self.config.stem == "3x3" else self.max_pool(x)

    def max_pool(self, x: Map) -> Map:
        """Pool 3x3 with stride 2; ONNX's own border never wins."""
        border, name, pads = self.config.stem_pool, x.name, [1, 1, 1, 1]
        if border == "zero":
            name = self.add("Pad", "stem.pad", name, self.array("stem.pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])))
            pads = [0, 0, 0, 0]
        elif border == "same":
            pads = _same(x.side, 3)
        name = self.add("MaxPool", "stem.pool", name, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        return Map(name, x.channels, -(-x.side // 2))

    def unit(self, unit: Unit, x: Map) -> Map:
        name = f"stages.{unit.stage}.blocks.{unit.number}"
        entry = self.activate(f"{name}.norm1", x) if unit.norm1 else x
        if unit.project:
            shortcut = self.project(name, unit, x if self.config.projection_input == "raw" else entry)
        else:
            shortcut = self.subsample(name, x) if unit.stride == 2 else x
        if self.config.block == "bottleneck":
            first, second = (1, unit.stride) if self.config.stride_conv == "conv2" else (unit.stride, 1)
            y = self.conv_activate(f"{name}.conv1", f"{name}.norm2", entry, first)
            y = self.conv_activate(f"{name}.conv2", f"{name}.norm3", y, second)
            y = self.conv(f"{name}.conv3", y)
        else:
            y = self.conv_activate(f"{name}.conv1", f"{name}.norm2", entry, unit.stride)
            y = self.conv(f"{name}.conv2", y)
        return y._replace(name=self.add("Add", f"{name}.add", y.name, shortcut.name))

    def project(self, unit_name: str, unit: Unit, x: Map) -> Map:
        name, stride = f"{unit_name}.downsample", unit.stride
        if self.config.projection_pool and stride == 2:
            odd = x.side % 2  # the last row and column are then means of what there is
            pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, odd, odd], "count_include_pad": 0}
            x = Map(self.add("AveragePool", f"{name}.pool", x.name, **pool), x.channels, -(-x.side // 2))
            stride = 1
        if self.config.projection_input != "raw":
            return self.conv(f"{name}.conv", x, stride)
        if self.config.norm == "batch":
            return self.conv(f"{name}.conv", x, stride, f"{name}.norm")
        return self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride))

    def subsample(self, unit_name: str, x: Map) -> Map:
        """Keep every second row and column, from the first."""
        name = self.add("MaxPool", f"{unit_name}.shortcut", x.name, kernel_shape=[1, 1], strides=[2, 2])
        return Map(name, x.channels, -(-x.side // 2))

    def head(self, x: Map) -> dict[str, tuple[int, ...]]:
        """Add pooling and classifier, and return the outputs."""
        name = self.add("GlobalAveragePool", "head.pool", x.name)
        outputs: dict[str, tuple[int, ...]] = {FEATURES: (x.channels,)}
        name = self.add("Flatten", FEATURES, name, axis=1)
        if not self.config.num_classes:
            return outputs
        tensors = [self.array(f"head.fc.{kind}", self.weights[f"head.fc.{kind}"]) for kind in ("weight", "bias")]
        self.add("Gemm", LOGITS, name, *tensors, transB=1)
        return {LOGITS: (self.config.num_classes,), **outputs}

    def conv_activate(self, conv: str, norm: str, x: Map, stride: int = 1) -> Map:
        """Add a convolution and the norm and ReLU that follow it."""
        if self.config.norm != "batch":
            return self.activate(norm, self.conv(conv, x, stride))
        y = self.conv(conv, x, stride, norm)
        return y._replace(name=self.add("Relu", f"{conv}.relu", y.name))

    def conv(self, name: str, x: Map, stride: int = 1, norm: str = "") -> Map:
        """Add a convolution, with the batch norm ``norm`` folded into it."""
        kernel = self.weights[f"{name}.weight"].astype(np.float64)
        if self.config.weight_std:
            mean, var = (f(kernel, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
            kernel = (kernel - mean) / np.sqrt(var + self.config.weight_std_eps)
        bias = self.weights.get(f"{name}.bias")
        if norm:
            scale, shift = self._affine(norm)
            kernel = kernel * scale.reshape(-1, 1, 1, 1)
            bias = shift if bias is None else bias * scale + shift
        inputs = [x.name, self.array(f"{name}.weight", kernel)]
        inputs += [] if bias is None else [self.array(f"{name}.bias", bias)]
        size = kernel.shape[2]
        same = self.config.same_padding and size > 1 and stride == 2
        pads = _same(x.side, size) if same else [size // 2] * 4
        self.add("Conv", name, *inputs, kernel_shape=[size, size], strides=[stride, stride], pads=pads)
        return Map(name, kernel.shape[0], -(-x.side // stride))

    def activate(self, name: str, x: Map) -> Map:
        """Add a norm and ReLU, or the norm that is its own activation."""
        y = self.norm(name, x)
        return y if self.config.norm == "evonorm" else y._replace(name=self.add("Relu", f"{name}.relu", y.name))

    def norm(self, name: str, x: Map) -> Map:
        add = {"batch": self._batch_norm, "group": self._group_norm, "evonorm": self._evonorm}[self.config.norm]
        return x._replace(name=add(name, x))

    def _batch_norm(self, name: str, x: Map) -> str:
        scale, shift = self._affine(name)
        zeros, ones = np.zeros_like(scale), np.ones_like(scale)
        parts = {"scale": scale, "shift": shift, "mean": zeros, "var": ones}
        arrays = [self.array(f"{name}.{part}", value) for part, value in parts.items()]
        return self.add("BatchNormalization", name, x.name, *arrays, epsilon=0.0)

    def _group_norm(self, name: str, x: Map) -> str:
        groups = self._groups(f"{name}.groups", x.name)
        ones = self.array(f"{name}.ones", np.ones(_GROUPS))
        zeros = self.array(f"{name}.zeros", np.zeros(_GROUPS))
        normed = self.add("InstanceNormalization", f"{name}.std", groups, ones, zeros, epsilon=self.config.norm_eps)
        return self._scale(name, self._ungroup(f"{name}.flat", normed, x))

    def _evonorm(self, name: str, x: Map) -> str:
        groups = self._groups(f"{name}.groups", x.name)
        mean = self.add("ReduceMean", f"{name}.mean", groups, axes=[2], keepdims=1)
        centred = self.add("Sub", f"{name}.centred", groups, mean)
        var = self.add("ReduceMean", f"{name}.var", self.add("Mul", f"{name}.square", centred, centred), axes=[2])
        eps = self.array(f"{name}.eps", np.array([self.config.norm_eps]))
        std = self.add("Sqrt", f"{name}.sqrt", self.add("Add", f"{name}.eps_add", var, eps))
        gate = self.add("Mul", f"{name}.gate", x.name, self._channels(f"{name}.v", self.weights[f"{name}.v"]))
        swish = self.add("Mul", f"{name}.swish", x.name, self.add("Sigmoid", f"{name}.sigmoid", gate))
        normed = self.add("Div", f"{name}.std", self._groups(f"{name}.swish_groups", swish), std)
        return self._scale(name, self._ungroup(f"{name}.flat", normed, x))

    def _scale(self, name: str, x: str) -> str:
        """Multiply by a norm's weight and add its bias."""
        weight, bias = (self._channels(f"{name}.{kind}", self.weights[f"{name}.{kind}"]) for kind in ("weight", "bias"))
        return self.add("Add", name, self.add("Mul", f"{name}.scaled", x, weight), bias)

    def _groups(self, name: str, x: str) -> str:
        """(N, C, h, w) -> (N, 32, C / 32 · h · w); 0 stands for the batch's own size."""
        return self.add("Reshape", name, x, self.array(f"{name}.shape", np.array([0, _GROUPS, -1])))

    def _ungroup(self, name: str, x: str, like: Map) -> str:
        shape = self.array(f"{name}.shape", np.array([0, like.channels, like.side, like.side]))
        return self.add("Reshape", name, x, shape)

    def _channels(self, name: str, value: np.ndarray) -> str:
        return self.array(name, value.reshape(1, -1, 1, 1))

    def _affine(self, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift of a batch norm, float64 (channels,)."""
        tensors = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (self.weights[f"{norm}.{tensor}"].astype(np.float64) for tensor in tensors)
        scale = weight / np.sqrt(var + self.config.norm_eps)
        return scale, bias - mean * scale


def _same(side: int, kernel: int) -> list[int]:
    """Return TensorFlow's SAME padding of a stride-2 window: an even side gets the odd pixel at its end."""
    before = kernel // 2 - 1 + side % 2
    return [before, before, kernel // 2, kernel // 2]
