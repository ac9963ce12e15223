"""8-bit networks: static scales from calibration pictures, one for each output channel of a kernel."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetv2.errors import MissingExtra
from resnetv2.runtime.graph import INPUT


def quantize_onnx(model: bytes, pictures: np.ndarray) -> bytes:
    """Return an ONNX model in 8 bits, with QuantizeLinear and DequantizeLinear around what is computed in them.

    Weights have 7 of the 8 bits: without VNNI, processors add two products in 16 bits, which 8 could overflow; with 7,
    every processor gives the same logits.

    Args:
        model: a float32 model of ``runtime.graph``.
        pictures: to calibrate with, uint8 (n, side, side, 3) RGB.

    Raises:
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise MissingExtra("quantizing an ONNX model", "export") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        rows = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {INPUT: row[None]}

    with TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            onnx.load_from_string(model),
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool", "AveragePool", "Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return path.read_bytes()


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
