"""The session by OpenVINO, on the processor."""

from __future__ import annotations

import atexit
import functools
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.config import ResNetV2Config
from resnetv2.errors import MissingExtra, ModelFileError
from resnetv2.runtime.graph import FEATURES, LOGITS, map_names
from resnetv2.runtime.session import POOLED, check_finite, check_layer, count_threads, one_memory_error


class OpenVinoSession:
    """Logits by OpenVINO.

    One picture is computed by all threads. Several go one by one to as many streams as the processor keeps busy, each
    with threads of its own: a map of one picture stays in its cache, and no thread waits for another.

    Args:
        model: the bytes of an ONNX model, or the .xml of one in OpenVINO's format, with the names of ``runtime.graph``.
        config: of its network.

    Raises:
        ModelFileError: OpenVINO refuses the model.
        MissingExtra: openvino is not installed.
    """

    runtime = "openvino"

    def __init__(self, model: bytes | Path, config: ResNetV2Config) -> None:
        self.config = config
        self.model = read_openvino(model)
        self.queues: dict[tuple[str, str], Any] = {}

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> logits float32 (N, num_classes); see ``Session``."""
        return check_finite(self._run([LOGITS if self.config.num_classes else FEATURES], pictures)[0])

    def features(self, pictures: np.ndarray, layer: str = POOLED) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> features of a layer, float32; see ``Session``."""
        check_layer(layer, [POOLED, *map_names(self.config)])
        return self._run([FEATURES if layer == POOLED else layer], pictures)[0]

    def with_features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) RGB -> logits and pooled features; see ``Session``."""
        logits, features = self._run([LOGITS if self.config.num_classes else FEATURES, FEATURES], pictures)
        return check_finite(logits), features

    def _run(self, outputs: list[str], pictures: np.ndarray) -> list[np.ndarray]:
        """Return outputs of one graph: any of "logits" and "features", or one map."""
        rows: list[list[Any]] = [[None] * len(pictures) for _ in outputs]

        def keep(request: Any, number: int) -> None:
            for kept, output in zip(rows, outputs, strict=True):
                kept[number] = request.get_tensor(output).data.copy()

        with one_memory_error():
            queue = self._queue(outputs[0], "LATENCY" if len(pictures) == 1 else "THROUGHPUT")
            queue.set_callback(keep)
            for number in range(len(pictures)):
                queue.start_async({0: pictures[number : number + 1]}, number)
            queue.wait_all()
        return [np.concatenate(kept) for kept in rows]

    def _queue(self, output: str, hint: str) -> Any:
        import openvino

        graph = "" if output in (LOGITS, FEATURES) else output
        if (graph, hint) not in self.queues:
            settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}  # its default may be bfloat16
            if count_threads():
                settings["INFERENCE_NUM_THREADS"] = str(count_threads())
            model = self.model if not graph else _end_at(self.model, graph)
            compiled = openvino_core().compile_model(model, "CPU", settings)
            self.queues[graph, hint] = openvino.AsyncInferQueue(compiled)
        return self.queues[graph, hint]


@functools.cache
def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of the process, which is freed when that ends.

    On processors with AMX a core gives the thread that first compiles with it a stack for signal handlers, and unmaps
    that stack when it is freed, by whichever thread: the next signal, Ctrl-C say, would then end the process.

    Raises:
        MissingExtra: openvino is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtra("running on OpenVINO", "openvino") from error
    atexit.register(openvino_core.cache_clear)  # later its threads may be at work in what is gone: exit code 134
    return openvino.Core()


def read_openvino(model: bytes | Path) -> Any:
    """Return OpenVINO's model for single pictures; see ``OpenVinoSession``."""
    core = openvino_core()
    try:
        with one_memory_error():
            read = core.read_model(model, b"") if isinstance(model, bytes) else core.read_model(model)
            size = read.inputs[0].get_partial_shape()
            read.reshape([1, *(size[axis].get_length() for axis in (1, 2, 3))])
            return read
    except RuntimeError as error:
        raise ModelFileError(f"OpenVINO refuses the model: {str(error).splitlines()[0]}") from error


def _end_at(model: Any, layer: str) -> Any:
    import openvino

    copy = model.clone()
    return openvino.Model([copy.add_outputs(layer)[0]], copy.get_parameters(), layer)
