"""The session by ONNX Runtime, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.errors import MissingExtra, ModelFileError
from resnetv2.runtime.graph import FEATURES, INPUT, LOGITS, map_names
from resnetv2.runtime.onnxmodel import encode_output
from resnetv2.runtime.session import POOLED, check_finite, check_layer, count_threads, one_memory_error


class OnnxSession:
    """Logits by ONNX Runtime.

    Args:
        model: the bytes of an ONNX model with the names of ``runtime.graph``, or its file, which ONNX Runtime reads
            by itself: a copy less.
        config: of its network.

    Raises:
        ModelFileError: ONNX Runtime refuses the model.
        MissingExtra: onnxruntime is not installed.
    """

    runtime = "onnx"

    def __init__(self, model: bytes | Path, config: ResNetV2Config) -> None:
        self.model = model
        self.config = config
        self.sessions = {"": _open(model)}

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> logits float32 (N, num_classes); see ``Session``."""
        return check_finite(self._run("", [LOGITS if self.config.num_classes else FEATURES], pictures)[0])

    def features(self, pictures: np.ndarray, layer: str = POOLED) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> features of a layer, float32; see ``Session``."""
        check_layer(layer, [POOLED, *map_names(self.config)])
        if layer == POOLED:
            return self._run("", [FEATURES], pictures)[0]
        if layer not in self.sessions:
            model = self.model if isinstance(self.model, bytes) else self.model.read_bytes()
            self.sessions[layer] = _open(model + encode_output(layer))
        return self._run(layer, [layer], pictures)[0]

    def with_features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) RGB -> logits and pooled features; see ``Session``."""
        logits, features = self._run("", [LOGITS if self.config.num_classes else FEATURES, FEATURES], pictures)
        return check_finite(logits), features

    def _run(self, session: str, outputs: list[str], pictures: np.ndarray) -> list[np.ndarray]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True  # a map needs nothing of what comes after it
        with one_memory_error():
            result: list[np.ndarray] = self.sessions[session].run(outputs, {INPUT: pictures}, options)
        return result


def _open(model: bytes | Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("running on ONNX Runtime", "export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    options.log_severity_level = 3  # errors; what it can do better than others is no matter of the person's
    try:
        with one_memory_error():
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # its classes have no common parent of their own
        raise ModelFileError(f"ONNX Runtime refuses the model: {error}") from error
