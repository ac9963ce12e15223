"""A safetensors file with a JSON header and a SHA-256 over header and tensors; written atomically.

The header is one text in the file's metadata, digest included, so that equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnetv2.errors import ModelFileError
from resnetv2.files import replace_file

_KEY, _DIGEST = "resnetv2", "sha256"


def write_sealed(path: Path, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write header and tensors; ``path`` is either the old file or the whole new one.

    Raises:
        Error: the file system refused.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sealed = {**header, _DIGEST: digest_of(header, arrays)}
    with replace_file(path) as temporary:
        try:
            save_file(arrays, temporary, {_KEY: _to_text(sealed)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error


def is_sealed(path: Path) -> bool:
    """Tell whether a path is a file that ``write_sealed`` wrote, without looking further than its metadata."""
    try:
        if not path.is_file():
            return False
        with safe_open(path, "numpy") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_seal(path: Path) -> dict[str, Any]:
    """Return the header alone. Fast: no tensor is read, so the digest is not checked.

    Raises:
        ModelFileError: missing, truncated, corrupt or foreign.
    """
    with _open(path) as file:
        header = _header(path, file)
    header.pop(_DIGEST, None)
    return header


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return header and tensors after checking the digest.

    Raises:
        ModelFileError: as ``read_seal``, or the content does not match the digest.
    """
    with _open(path) as file:
        header = _header(path, file)
        digest = header.pop(_DIGEST, None)
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping, it has only keys()
        except (SafetensorError, OSError, TypeError) as error:
            raise ModelFileError(f"{path} is damaged: {error}") from error
        if digest_of(header, tensors) != digest:
            raise ModelFileError(f"{path} was changed after it was written: its SHA-256 does not match")
    return header, tensors


def _open(path: Path) -> Any:
    if os.path.isdir(path) and os.path.exists(path / "config.json") and os.path.exists(path / "model.safetensors"):  # noqa: PTH110, PTH112
        raise ModelFileError(f"{path} is a folder for timm or transformers: load it by resnetv2.from_pretrained")
    if os.path.isdir(path):  # noqa: PTH112  as above
        raise ModelFileError(f"{path} is a folder; a file such as {path / 'best.safetensors'} is expected")
    if not os.path.exists(path):  # noqa: PTH110  as above
        raise ModelFileError(f"no such file: {path}")
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is no readable model file (truncated, damaged or foreign): {error}") from error


def _header(path: Path, file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise ModelFileError(f"{path} is a safetensors file, but not one that resnetv2 wrote: it has no header")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:  # also: a number too long, brackets too deep
        raise ModelFileError(f"{path} has a damaged header: {error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} has a damaged header: it is no JSON object")
    return header


def _to_text(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True)  # ASCII: what is no UTF-8, such as a lone surrogate, has its escape


def digest_of(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a header and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(_to_text(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype.str}\0{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
