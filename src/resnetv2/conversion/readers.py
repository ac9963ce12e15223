"""From a checkpoint file to its tensors, whatever the format; the content decides, not the file's ending."""

from __future__ import annotations

import errno
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from zipfile import BadZipFile, ZipFile

import numpy as np
from safetensors import SafetensorError

from resnetv2.conversion.formats import budget
from resnetv2.conversion.formats.archive import GZIP, TAR, TAR_PLACE, unpack_tar, unpack_zip
from resnetv2.conversion.formats.hdf5 import read_hdf5, read_keras
from resnetv2.conversion.formats.npz import read_npz
from resnetv2.conversion.formats.onnx import read_onnx
from resnetv2.conversion.formats.params import MAGIC, read_params
from resnetv2.conversion.formats.pickled import read_pickled
from resnetv2.conversion.formats.preset import preset_files, read_preset, refuse_head_alone
from resnetv2.conversion.formats.safetensors import read_safetensors
from resnetv2.conversion.formats.sstable import MAGIC as SSTABLE
from resnetv2.conversion.formats.tensorflow import INDEX, read_tensorflow, shards_of
from resnetv2.conversion.formats.torch7 import detect_torch7, read_torch7
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
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC}  # say nothing of the file
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
_MAX_FILES = 10_000  # looked at in a folder
_SAID = 300  # characters of an error that others wrote, which may quote what a file holds


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


def find_checkpoint(path: Path) -> Path:
    """Return the file that is, or begins, the checkpoint meant by ``path``.

    Args:
        path: that file itself; the prefix or a file of data of a TensorFlow checkpoint, whose index is returned; or a
            folder with exactly one checkpoint in or below it, such as a SavedModel. KerasHub's preset is its folder.

    Raises:
        ConvertError: there is none, or more than one.
    """
    try:
        if path.is_dir():
            return path if preset_files(path) else _only_checkpoint(path, f"{path} is a folder; ")
        if not path.exists() or _SHARD.search(path.name):
            index = path.with_name(_SHARD.sub("", path.name) + INDEX)
            path = index if index.is_file() else path
        if not path.is_file():
            raise ConvertError(f"no such file: {path}")
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror or error}") from error
    return path


def files_of(file: Path) -> list[Path]:
    """Return all files of a found checkpoint: those of a preset's folder, or itself and the data beside an index."""
    if file.is_dir():
        return preset_files(file)
    return [file, *(shards_of(file) if file.suffix == INDEX else ())]


def _only_checkpoint(folder: Path, said: str = "") -> Path:
    """Return the one checkpoint in a folder or below it; errors begin with what is ``said``."""
    paths = list(islice(folder.rglob("*"), _MAX_FILES + 1))
    if len(paths) > _MAX_FILES:
        raise ConvertError(f"{said}more than {_MAX_FILES:,} files are in it; give the checkpoint itself")
    found = [path for path in sorted(paths) if not _SHARD.search(path.name) and path.is_file() and _is_checkpoint(path)]
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:12])
        held = f"{len(found)} checkpoints, give one of them: {names}" if found else "no checkpoint in a known format"
        raise ConvertError(f"{said}it holds {held}")
    return found[0]


def read_tensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return a checkpoint's format, a key of ``READERS``, and its tensors by the names in it.

    Args:
        path: a file, what ``find_checkpoint`` finds one by, or an archive with exactly one checkpoint in it.

    Raises:
        ConvertError: missing, damaged, hostile, in no known format, or one of several.
        MissingExtra: the format needs a package that is not installed.
    """
    file = find_checkpoint(path)
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
    except MemoryError as error:
        raise ConvertError(f"{path} needs more memory than there is") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            place = f" in {gettempdir()}; TMPDIR names another folder" if error.errno == errno.ENOSPC else ""
            raise ConvertError(f"cannot read {path}: {error.strerror}{place}") from error
        raise ConvertError(f"{path} is damaged: {type(error).__name__}: {str(error)[:_SAID]}") from error


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """Yield the checkpoint itself: the file, or the one in the archive that it is."""
    kind = detect(file)
    if kind in READERS:
        yield file
        return
    with TemporaryDirectory() as folder:
        ARCHIVES[kind](file, Path(folder))
        yield _only_checkpoint(Path(folder))


def _is_checkpoint(file: Path) -> bool:
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
