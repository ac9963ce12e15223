"""Which runtime computes: the one that is asked for, or the fastest that is there.

"auto" decides so that no job is slower than it would be by PyTorch. On a graphics processor PyTorch computes. On the
processor, the order is OpenVINO, ONNX Runtime, PyTorch: that is how fast they were (BENCHMARKS.md), and in the same
order they start, since importing torch takes seconds and compiling a graph for the others takes tenths of one. Where
many pictures wait, the seconds are spent to measure what is there, once for each machine, network and size; from
then on small jobs know, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from resnetv2.cache import cache_path
from resnetv2.console import printable, talk
from resnetv2.errors import ConfigError, Error, MissingExtra, first_line, unknown
from resnetv2.files import write_json
from resnetv2.runtime.session import Session, count_threads
from resnetv2.weights.modelfile import ModelFile

AUTO = "auto"
RUNTIMES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch", "torch-compile": "torch"}  # their packages
MANY = 1000  # pictures from which on measuring pays: it costs as much as about fifty
_CHOICES = ("openvino", "onnx", "torch")  # for "auto", in its order
_BATCH, _TURNS = 8, 2  # pictures of one measurement, and how many are made after one that does not count
_ONNX_BYTES = 2 << 30


def open_session(file: ModelFile, runtime: str = AUTO, device: str = "auto", count: int = 1) -> Session:
    """Make a model file ready to answer.

    Args:
        file: the whole model file.
        runtime: "auto", "openvino", "onnx" (both on the processor), "torch", or "torch-compile", whose first batch of
            every size takes a minute.
        device: "auto", "cpu", "cuda", "mps".
        count: pictures that will be answered, as far as that is known.

    Raises:
        ConfigError: no such runtime or device, or they do not go together.
        MissingExtra: the runtime is not installed.
        ModelFileError: weights and architecture do not fit.
    """
    chosen = choose_runtime(file, device, count) if runtime == AUTO else runtime
    if chosen not in RUNTIMES:
        raise ConfigError(unknown("runtime", chosen, [AUTO, *RUNTIMES]))
    if chosen.startswith("torch"):
        return _open_torch(file, device, compiled=chosen == "torch-compile")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"runtime {chosen!r} computes on the processor: device must be auto or cpu, got {device!r}")
    from resnetv2.runtime.graph import build_graph
    from resnetv2.runtime.onnxmodel import encode_onnx

    header = file.header
    model = encode_onnx(build_graph(header.architecture, header.preprocessing, file.weights))
    if chosen == "onnx":
        from resnetv2.runtime.onnx import OnnxSession

        return OnnxSession(model, header.architecture)
    from resnetv2.runtime.openvino import OpenVinoSession

    return OpenVinoSession(model, header.architecture)


def choose_runtime(file: ModelFile, device: str = "auto", count: int = 1) -> str:
    """Return what "auto" stands for, and say it on stderr where there was a choice; see the top of the module."""
    installed = [name for name in _CHOICES if _is_installed(name)]
    if device not in ("auto", "cpu") or (device == "auto" and "torch" in installed and _has_accelerator()):
        return "torch"
    if sum(value.nbytes for value in file.weights.values()) >= _ONNX_BYTES and "torch" in installed:
        return "torch"
    if len(installed) < 2:
        return (installed or ["torch"])[0]
    path = _speeds_path(file, installed)
    speeds = _read_speeds(path)
    if not speeds and count >= MANY:
        talk().print(f"measuring once which runtime is the fastest here: {', '.join(installed)}", soft_wrap=True)
        speeds = _measure_all(file, installed)
        with contextlib.suppress(Error):  # a cache that cannot be written is measured for again
            write_json(path, speeds)
    best = max(speeds, key=speeds.__getitem__) if speeds else installed[0]
    figures = ", ".join(f"{name} {rate:.1f}" for name, rate in speeds.items())
    talk().print(f"runtime: {best}" + (f" (pictures a second here: {figures})" if speeds else ""), soft_wrap=True)
    return best


def _measure_all(file: ModelFile, runtimes: list[str]) -> dict[str, float]:
    """Return pictures a second by runtime; one that is installed and does not work is told and left out."""
    speeds = {}
    for name in runtimes:
        try:
            speeds[name] = measure(file, name)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it, another may answer
            talk().print(f"warning: {name} does not run here: {printable(first_line(error))}", soft_wrap=True)
    return speeds


def measure(file: ModelFile, runtime: str) -> float:
    """Return how many pictures a second a runtime answers on the processor, by the median of a few batches."""
    session = open_session(file, runtime, "cpu")
    side = file.header.preprocessing.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (_BATCH, side, side, 3), np.uint8)
    seconds = []
    for _ in range(1 + _TURNS):
        began = time.perf_counter()
        session(pictures)
        seconds.append(time.perf_counter() - began)
    return _BATCH / statistics.median(seconds[1:])


def _open_torch(file: ModelFile, device: str, compiled: bool) -> Session:
    try:
        from resnetv2.runtime.pytorch import TorchSession, build_model, choose_device
    except ModuleNotFoundError as error:
        raise MissingExtra("running on PyTorch", "train") from error
    model = build_model(file.header.architecture, file.weights)
    return TorchSession(model, file.header.preprocessing, choose_device(device), compiled)


def _is_installed(runtime: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(RUNTIMES[runtime]) is not None
    return False


def _has_accelerator() -> bool:
    """Tell whether torch may find a graphics processor: torch itself knows, but takes seconds to be asked."""
    if "torch" not in sys.modules and not _may_have_accelerator():
        return False
    from resnetv2.runtime.pytorch import choose_device

    return choose_device().type != "cpu"


def _may_have_accelerator() -> bool:
    if platform.system() == "Linux":
        return any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    return platform.system() == "Windows" or platform.machine() == "arm64"


def _speeds_path(file: ModelFile, installed: list[str]) -> Path:
    """Return where the speeds of this machine, network and size are kept."""
    packages = [f"{name} {_version(RUNTIMES[name])}" for name in installed]
    machine = [platform.node(), platform.machine(), os.cpu_count(), count_threads()]
    network = replace(file.header.architecture, num_classes=0).to_dict()
    state = json.dumps([machine, packages, network, file.header.preprocessing.image_size], sort_keys=True)
    return cache_path("speeds", f"{hashlib.sha256(state.encode()).hexdigest()[:16]}.json")


def _version(module: str) -> str:
    """Return the version of what brought a module: the package of its name, or another, such as onnxruntime-gpu."""
    try:
        return version(module)
    except PackageNotFoundError:
        packages = packages_distributions().get(module, [])  # reads the records of all packages
        return ", ".join(f"{package} {version(package)}" for package in sorted(set(packages)))


def _read_speeds(path: Path) -> dict[str, float]:
    """Return pictures a second by runtime; nothing where nothing was measured, or what is kept is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(kept, dict) and all(k in _CHOICES and isinstance(v, int | float) for k, v in kept.items())
    return kept if sound else {}
