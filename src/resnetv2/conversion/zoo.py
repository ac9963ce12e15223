"""A network as the ONNX Model Zoo has it: opset 7, nodes and initializers by the names MXNet's exporter gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnetv2.config import ResNetV2Config, Unit
from resnetv2.conversion.mxnet import ONNX_ZOO
from resnetv2.errors import ConvertError, MissingExtra

# Gluon counts the networks that a process builds: these are the numbers in the zoo's files
_NUMBERS: dict[tuple[str, tuple[int, ...]], int] = {
    ("basic", (2, 2, 2, 2)): 2,
    ("basic", (3, 4, 6, 3)): 3,
    ("bottleneck", (3, 4, 6, 3)): 4,
    ("bottleneck", (3, 4, 23, 3)): 5,
    ("bottleneck", (3, 8, 36, 3)): 7,
}
_INPUT, _SHAPE = "data", "reshape_attr_tensor0"  # the two names without the network's prefix
_MAX_BYTES = (2 << 30) - (1 << 20)  # protobuf's limit, less a megabyte for the graph


class Node(NamedTuple):
    """One node of the graph; its output has its name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


def write_zoo(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write an ONNX model: float32 ``data`` (N, C, 224, 224) -> logits (N, classes), N as large as one likes.

    The prefix of all other names follows the depth as in the zoo: "resnetv24_" for 50. Depths that the zoo lacks have
    "resnetv20_", as the first network that Gluon builds.

    Args:
        path: the file.
        tensors: a whole network by the zoo's names, without prefix.

    Raises:
        ConvertError: no head, another stem, other numbers than float32, or too many of them for one file.
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtra("writing ONNX files", "convert") from error
    (config,) = ONNX_ZOO.configs(tensors).values()
    problems = list(_problems(config, tensors))
    if problems:
        raise ConvertError(f"{ONNX_ZOO.title} has no such network: {'; '.join(problems)}")
    onnx.save(_model(onnx, config, tensors), path)


def _problems(config: ResNetV2Config, tensors: Mapping[str, np.ndarray]) -> Iterator[str]:
    if config.stem != "7x7" or not config.num_classes:
        yield "its networks have a 7x7 stem and classes"
    others = [name for name, value in tensors.items() if value.dtype != np.float32]
    if others:
        yield f"its tensors are float32, unlike {', '.join(others[:6])}"
    size = sum(value.nbytes for value in tensors.values())
    if size > _MAX_BYTES:
        yield f"an ONNX file holds less than 2 GiB, the weights are {size:,} bytes"


def _model(onnx: Any, config: ResNetV2Config, tensors: Mapping[str, np.ndarray]) -> Any:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    prefix = f"resnetv2{_NUMBERS.get((config.block, config.depths), 0)}_"
    arrays = {**tensors, _SHAPE: np.array([0, -1], np.int64)}

    def full(name: str) -> str:
        return name if name in (_INPUT, _SHAPE) else prefix + name

    nodes = graph_nodes(config)
    used = [name for node in nodes for name in node.inputs if name in arrays]
    stored = [onnx.numpy_helper.from_array(arrays[name], full(name)) for name in used]
    made = [
        helper.make_node(n.op, [full(name) for name in n.inputs], [full(n.name)], full(n.name), **n.attributes)
        for n in nodes
    ]
    pictures = helper.make_tensor_value_info(_INPUT, float32, ["N", config.in_chans, 224, 224])
    inputs = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored]  # before IR 4 all are inputs
    logits = helper.make_tensor_value_info(full(nodes[-1].name), float32, ["N", config.num_classes])
    graph = helper.make_graph(made, "resnetv2", [pictures, *inputs], [logits], stored)
    return helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 7)])


def graph_nodes(config: ResNetV2Config) -> list[Node]:
    """Return the nodes of a network in order of execution, by the zoo's names without prefix."""
    graph = _Graph(config)
    x = graph.norm("input_norm", _INPUT)
    x = graph.activate("stem.norm", graph.conv("stem.conv", x, 7, 2))
    x = graph.add("MaxPool", "pool0_fwd", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    for unit in config.units():
        x = graph.unit(unit, x)
    x = graph.add("GlobalAveragePool", "pool1_fwd", graph.activate("norm", x))
    x = graph.add("Reshape", "flatten0_reshape0", x, _SHAPE)
    scales: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    graph.add("Gemm", "dense0_fwd", x, "dense0_weight", "dense0_bias", **scales)
    return graph.nodes


class _Graph:
    """Nodes, added one after the other; every method returns the name of what it added."""

    def __init__(self, config: ResNetV2Config) -> None:
        self.config = config
        self.names = ONNX_ZOO.names(config)
        self.nodes: list[Node] = []

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(Node(op, name, inputs, attributes))
        return name

    def norm(self, module: str, x: str) -> str:
        name = self.names[module]
        tensors = [f"{name}_{tensor}" for tensor in ("gamma", "beta", "running_mean", "running_var")]
        numbers = {"epsilon": self.config.norm_eps, "momentum": 1 - self.config.norm_momentum, "spatial": 1}
        return self.add("BatchNormalization", f"{name}_fwd", x, *tensors, **numbers)

    def activate(self, module: str, x: str) -> str:
        name = {"stem.norm": "relu0_fwd", "norm": "relu1_fwd"}.get(module)
        return self.add("Relu", name or self.names[module].replace("batchnorm", "activation"), self.norm(module, x))

    def conv(self, module: str, x: str, kernel: int, stride: int) -> str:
        name = self.names[module]
        sizes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.add("Conv", f"{name}_fwd", x, f"{name}_weight", dilations=[1, 1], group=1, **sizes)

    def unit(self, unit: Unit, x: str) -> str:
        module = f"stages.{unit.stage}.blocks.{unit.number}"
        bottleneck = self.config.block == "bottleneck"
        kernels = [(1, 1), (3, unit.stride), (1, 1)] if bottleneck else [(3, unit.stride), (3, 1)]
        first, branch = "", x
        for number, (kernel, stride) in enumerate(kernels, 1):
            branch = self.activate(f"{module}.norm{number}", branch)
            first = first or branch
            branch = self.conv(f"{module}.conv{number}", branch, kernel, stride)
        shortcut = self.conv(f"{module}.downsample.conv", first, 1, unit.stride) if unit.project else x
        return self.add("Add", f"stage{unit.stage + 1}__plus{unit.number}", branch, shortcut)
