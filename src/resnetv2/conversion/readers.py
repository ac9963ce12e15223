"""From a checkpoint file to its tensors, whatever the format; the content decides, not the file's ending."""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import numpy as np
from safetensors import SafetensorError, safe_open

from resnetv2.conversion.formats import budget
from resnetv2.conversion.formats.archive import GZIP, TAR, TAR_PLACE, unpack_tar, unpack_zip
from resnetv2.conversion.formats.bfloat16 import widen_bfloat16
from resnetv2.conversion.formats.hdf5 import read_hdf5, read_keras
from resnetv2.conversion.formats.npz import read_npz
from resnetv2.conversion.formats.onnx import read_onnx
from resnetv2.conversion.formats.params import MAGIC, read_params
from resnetv2.conversion.formats.pickled import read_pickled
from resnetv2.conversion.formats.preset import read_preset, refuse_head_alone
from resnetv2.conversion.formats.sstable import MAGIC as SSTABLE
from resnetv2.conversion.formats.tensorflow import read_tensorflow
from resnetv2.conversion.formats.torch7 import detect_torch7, read_torch7
from resnetv2.conversion.location import files_of, locate, only_checkpoint
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
    tarfile.TarError,
    zlib.error,
)  # what readers of damaged bytes raise


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file by name; bfloat16, which NumPy lacks, becomes float32 exactly."""
    taken = budget.Budget()
    with safe_open(path, "numpy") as file:  # checks the header: what stands in it can be trusted from here on
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  it has only keys()
        tensors = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
    for name in kinds.keys() - tensors.keys():
        tensors[name] = _bfloat16(path, name)
    for name, value in tensors.items():
        taken.take(name, value.shape, value.dtype)
    return tensors


def _bfloat16(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
    start, end = entry["data_offsets"]
    bits = np.fromfile(path, "<u2", (end - start) // 2, offset=8 + size + start)
    return widen_bfloat16(bits).reshape(entry["shape"])


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "safetensors": read_safetensors,
    "npz": read_npz,
    "hdf5": read_hdf5,
    "keras": read_keras,
    "onnx": read_onnx,
    "params": read_params,
    "pytorch": read_pickled,
    "torch7": read_torch7,
    "tensorflow": read_tensorflow,
    "preset": read_preset,
}

_MARKS = {  # format -> the first bytes
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "params": MAGIC,
    "pytorch": b"\x80",  # a pickle, as PyTorch wrote it before 1.6
    "tar": GZIP,
}

ARCHIVES: dict[str, Callable[[Path, Path], None]] = {"tar": unpack_tar, "zip": unpack_zip}


def read_tensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return a checkpoint's format, a key of ``READERS``, and its tensors by the names in it.

    Args:
        path: a file, what ``locate`` finds one by, or an archive with exactly one checkpoint in it.

    Raises:
        ConvertError: missing, damaged, hostile, in no known format, or one of several.
        MissingExtra: the format needs a package that is not installed.
    """
    file = locate(path, is_checkpoint)
    if sum(part.stat().st_size for part in files_of(file)) > budget.MAX_BYTES:
        raise ConvertError(f"{path} is larger than {budget.MAX_BYTES >> 30} GiB, more than any ResNet-v2 needs")
    try:
        with _unpacked(file) as inner:
            kind = detect(inner)
            return kind, READERS[kind](inner)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    except Error:
        raise
    except _DAMAGE as error:
        raise ConvertError(f"{path} is damaged: {type(error).__name__}: {error}") from error


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """Yield the checkpoint itself: the file, or the one in the archive that it is."""
    kind = detect(file)
    if kind in READERS:
        yield file
        return
    with TemporaryDirectory() as folder:
        ARCHIVES[kind](file, Path(folder))
        yield only_checkpoint(Path(folder), is_checkpoint)


def is_checkpoint(file: Path) -> bool:
    """Tell whether a file is in one of the formats of ``READERS``, as far as ``detect`` looks."""
    try:
        return detect(file) in READERS
    except (ConvertError, *_DAMAGE):
        return False


def detect(path: Path) -> str:
    """Return the format of a file or of a preset's folder, a key of ``READERS`` or ``ARCHIVES``.

    Raises:
        ConvertError: none of them.
    """
    if path.is_dir():
        return "preset"
    start, end = _ends(path)
    refuse_head_alone(path)
    if start.startswith(b"PK\3\4"):
        return _zip(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "safetensors"
    for kind, mark in _MARKS.items():
        if start.startswith(mark):
            return kind
    if start[TAR_PLACE:].startswith(TAR):
        return "tar"
    if detect_torch7(start):
        return "torch7"
    if end == SSTABLE:
        return "tensorflow"
    if path.suffix == ".onnx":  # a protobuf message has no mark of its own
        return "onnx"
    raise ConvertError(f"none of the known formats: {', '.join((*READERS, *ARCHIVES))}")


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first 512 bytes and the last 8."""
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(max(0, path.stat().st_size - 8))
        return start, file.read(8)


def _zip(path: Path) -> str:
    with ZipFile(path) as archive:
        names = archive.namelist()
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("/data.pkl") for name in names):
        return "pytorch"
    return "npz" if any(name.endswith(".npy") for name in names) else "zip"
