"""8-bit networks: static scales from calibration pictures, one for each output channel of a kernel."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetv2.errors import MissingExtra
from resnetv2.runtime.graph import INPUT, Graph, Node
from resnetv2.runtime.onnxmodel import encode_onnx


def quantize_onnx(graph: Graph, pictures: np.ndarray) -> bytes:
    """Return the ONNX model of a graph in 8 bits, with QuantizeLinear and DequantizeLinear around what is computed so.

    Weights have 7 of the 8 bits: without VNNI, processors add two products in 16 bits, which 8 could overflow; with 7,
    every processor gives the same logits.

    Args:
        graph: of float32.
        pictures: to calibrate with, uint8 (n, side, side, 3) RGB.

    Raises:
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise MissingExtra("quantizing an ONNX model", "export") from error

    # its ReLU stays: the last map is what the head pools and what features are asked of
    pooled = next(node.inputs[0] for node in graph.nodes if node.op == "GlobalAveragePool")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        rows = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {INPUT: row[None]}

    with TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            onnx.load_from_string(encode_onnx(_with_norms_as_convolutions(graph))),
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Add", "MaxPool", "AveragePool", "Gemm"],
            nodes_to_exclude=[pooled],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return path.read_bytes()


def _with_norms_as_convolutions(graph: Graph) -> Graph:
    """Write batch norms as convolutions with one weight a channel.

    ONNX Runtime has 8 bits for a convolution and its ReLU, and none for a batch norm: between two conversions it would
    compute in float32, in another order of the axes. A scale for each channel makes its one weight exact.
    """
    nodes, arrays = [], dict(graph.arrays)
    for node in graph.nodes:
        if node.op != "BatchNormalization":
            nodes.append(node)
            continue
        x, scale, shift, mean, var = node.inputs  # of mean 0 and variance 1: see ``build_graph``
        channels = len(arrays[scale])
        arrays[scale] = arrays[scale].reshape(channels, 1, 1, 1)
        del arrays[mean], arrays[var]
        nodes.append(Node("Conv", node.name, (x, scale, shift), {"kernel_shape": [1, 1], "group": channels}))
    return replace(graph, nodes=nodes, arrays=arrays)


def quantize_openvino(model: Any, pictures: np.ndarray) -> Any:
    """Return an OpenVINO model in 8 bits, by NNCF; weights have 7 of them, as in ``quantize_onnx``.

    Args:
        model: a float32 model.
        pictures: to calibrate with, uint8 (n, side, side, 3) RGB.

    Raises:
        MissingExtra: nncf is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # NNCF would report its use to its makers
    try:
        with _quiet():
            import nncf
            from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ModuleNotFoundError as error:
        raise MissingExtra("quantizing an OpenVINO model", "export") from error
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset([row[None] for row in pictures]),
            subset_size=len(pictures),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep stdout for results and the log for what is wrong."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(level)
