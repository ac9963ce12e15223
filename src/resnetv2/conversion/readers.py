"""From a checkpoint file to its tensors, whatever the format; the content decides, not the file's ending."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from safetensors import SafetensorError, safe_open

from resnetv2.conversion.formats import budget
from resnetv2.conversion.formats.hdf5 import read_hdf5, read_keras
from resnetv2.conversion.formats.npz import read_npz
from resnetv2.conversion.formats.onnx import read_onnx
from resnetv2.conversion.formats.params import MAGIC, read_params
from resnetv2.conversion.formats.pickled import read_pickled
from resnetv2.conversion.formats.preset import preset_files, read_preset, refuse_head_alone
from resnetv2.errors import ConvertError, Error

_DAMAGE = (
    ArithmeticError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)  # what readers of damaged bytes raise


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file by name; bfloat16, which NumPy lacks, is an error."""
    taken = budget.Budget()
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping, it has only keys()
    for name, value in tensors.items():
        taken.take(name, value.shape, value.dtype)
    return tensors


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "safetensors": read_safetensors,
    "npz": read_npz,
    "hdf5": read_hdf5,
    "keras": read_keras,
    "onnx": read_onnx,
    "params": read_params,
    "pytorch": read_pickled,
    "preset": read_preset,
}


def files_of(path: Path) -> list[Path]:
    """Return the files whose bytes make up a checkpoint: itself, or those of weights in a KerasHub preset's folder.

    Raises:
        ConvertError: there is nothing, or a folder that is no preset.
    """
    files = [path] if path.is_file() else preset_files(path)
    if not files:
        what = "a folder; a file or a KerasHub preset's folder is expected"
        raise ConvertError(f"{path} is {what}" if path.is_dir() else f"no such file: {path}")
    return files


def read_tensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return a checkpoint's format, a key of ``READERS``, and its tensors by the names in the file.

    Raises:
        ConvertError: missing, damaged, hostile, or in no known format.
        MissingExtra: the format needs a package that is not installed.
    """
    if sum(file.stat().st_size for file in files_of(path)) > budget.MAX_BYTES:
        raise ConvertError(f"{path} is larger than {budget.MAX_BYTES >> 30} GiB, more than any ResNet-v2 needs")
    try:
        kind = detect(path)
        return kind, READERS[kind](path)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    except Error:
        raise
    except _DAMAGE as error:
        raise ConvertError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def detect(path: Path) -> str:
    """Return the format of a file or of a preset's folder, a key of ``READERS``.

    Raises:
        ConvertError: none of them.
    """
    if path.is_dir():
        return "preset"
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK\3\4"):
        return _zip(path)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        refuse_head_alone(path)
        return "hdf5"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "safetensors"
    if start.startswith(MAGIC):
        return "params"
    if start[:1] == b"\x80":  # a pickle, as PyTorch wrote it before 1.6
        return "pytorch"
    if path.suffix == ".onnx":  # a protobuf message has no mark of its own
        return "onnx"
    raise ConvertError(f"none of the known formats: {', '.join(READERS)}")


def _zip(path: Path) -> str:
    with ZipFile(path) as archive:
        names = archive.namelist()
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("/data.pkl") for name in names):
        return "pytorch"
    return "npz"
