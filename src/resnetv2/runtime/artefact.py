"""Artefacts: networks in a runtime's own format, with the model file's header and golden samples inside.

One JSON text, "resnetv2", is in ``metadata_props`` of an ONNX model, in ``rt_info`` of an OpenVINO model, or among the
extra files of a ``torch.export`` archive. A SHA-256 covers it and the rest. Reading it needs none of the runtimes.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.runtime.choice import AUTO
from resnetv2.runtime.onnxmodel import model_parts, read_texts
from resnetv2.runtime.session import Session
from resnetv2.weights.likeness import VARIANCES, TrainingFeatures
from resnetv2.weights.modelfile import Golden, Header, parse_header, read_likeness

SCHEMA_VERSION = 2
KEY = "resnetv2"
RUNTIMES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}  # by ending
PRECISIONS = {"float32": 1e-4, "int8": 5e-2}  # with what other machines may differ by, as part of the largest logit
_UNSEALED = "0" * 64
_FIELDS: dict[str, type] = {
    "kind": str,
    "schema_version": int,
    "precision": str,
    "model": dict,
    "golden": dict,
    "likeness": dict,
    "report": dict,
    "sha256": str,
}
_ADDED: dict[int, dict[str, Any]] = {
    2: {"likeness": {}}
}  # fields that a version brought, with what they are in older artefacts
_XML = re.compile(rb'<resnetv2 value="([^"]*)"')
_EXTRA = "extra/resnetv2.json"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What an artefact says of itself, and what it promised to answer.

    Attributes:
        precision: a key of PRECISIONS.
        header: of the model file that it was made of.
        golden: the model file's pictures; what is answered to them, for int8 by the artefact itself.
        report: what was measured before it was let out.
        likeness: the model file's.
        sha256: of all of it, once it is written.
    """

    path: Path
    precision: str
    header: Header
    golden: Golden
    report: Mapping[str, Any] = field(default_factory=dict)
    likeness: TrainingFeatures | None = None
    sha256: str = ""

    @property
    def runtime(self) -> str:
        """What computes it."""
        return RUNTIMES[self.path.suffix]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``info`` tells: the model file's header, and precision, runtime and report."""
        more = {"precision": self.precision, "runtime": self.runtime, "report": dict(self.report)}
        return {**self.header.to_dict(), "kind": "artefact", **more}


def is_artefact(path: str | Path) -> bool:
    """Tell by the ending whether a path is meant as an artefact."""
    return Path(path).suffix in RUNTIMES


def write_artefact(artefact: Artefact, save: Callable[[Path, str], None]) -> None:
    """Write an artefact to its path.

    Args:
        artefact: what it says of itself.
        save: writes the network to a path, with a text inside. It is called a second time to write the digest of what
            it wrote, so it must write the same again.
    """
    text = _to_text(artefact)
    save(artefact.path, text)
    _, chunks = _CONTENTS[artefact.path.suffix](artefact.path)
    save(artefact.path, text.replace(_UNSEALED, _digest(text, chunks)))


def read_artefact(path: Path) -> Artefact:
    """Read an artefact's header and golden samples, and check its digest.

    Raises:
        ModelFileError: missing, truncated, damaged, foreign, changed after it was written, or of a newer version.
    """
    if path.is_dir() or not path.exists():
        raise ModelFileError(f"{path} is a folder; a file is expected" if path.is_dir() else f"no such file: {path}")
    try:
        text, chunks = _CONTENTS[path.suffix](path)
    except (OSError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if text is None:
        raise ModelFileError(f"{path} is not an artefact that resnetv2 wrote: it has no header")
    values, header, golden, likeness = _parse(path, text)
    if values["sha256"] != _digest(text.replace(values["sha256"], _UNSEALED), chunks):
        raise ModelFileError(f"{path} was changed after it was written: its SHA-256 does not match")
    told = {name: values[name] for name in ("precision", "report", "sha256")}
    return Artefact(path=path, header=header, golden=golden, likeness=likeness, **told)


def open_artefact(artefact: Artefact, runtime: str = AUTO, device: str = "auto") -> Session:
    """Make an artefact ready to answer, in the one runtime that it was proved in.

    Raises:
        ConfigError: another runtime or a device that it does not have.
        MissingExtra: its runtime is not installed.
        ModelFileError: the runtime refuses it.
    """
    if runtime not in (AUTO, artefact.runtime):
        raise ConfigError(f"{artefact.path} was exported for the runtime {artefact.runtime!r}, got {runtime!r}")
    architecture = artefact.header.architecture
    if artefact.runtime == "torch":
        from resnetv2.errors import MissingExtra

        try:
            from resnetv2.runtime.exported import ExportedSession
        except ModuleNotFoundError as error:
            raise MissingExtra("running a .pt2 artefact", "train") from error
        return ExportedSession(artefact.path, device)
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{artefact.path} computes on the processor: device must be auto or cpu, got {device!r}")
    if artefact.runtime == "onnx":
        from resnetv2.runtime.onnx import OnnxSession

        return OnnxSession(artefact.path, architecture)
    from resnetv2.runtime.openvino import OpenVinoSession

    return OpenVinoSession(artefact.path, architecture)


def _to_text(artefact: Artefact) -> str:
    golden = {
        "pictures": [b64encode(picture).decode() for picture in artefact.golden.pictures],
        "logits": _to_base64(artefact.golden.logits),
    }
    likeness = artefact.likeness.to_tensors() if artefact.likeness else {}
    values = {
        "kind": "artefact",
        "schema_version": SCHEMA_VERSION,
        "precision": artefact.precision,
        "model": artefact.header.to_dict(),
        "golden": golden,
        "likeness": {name: _to_base64(value) for name, value in likeness.items()},
        "report": dict(artefact.report),
        "sha256": _UNSEALED,
    }
    return json.dumps(values, sort_keys=True)


def _parse(path: Path, text: str) -> tuple[dict[str, Any], Header, Golden, TrainingFeatures | None]:
    try:
        values = json.loads(text)
        version = values["schema_version"]
        added = [fields for since, fields in _ADDED.items() if type(version) is int and version < since]
        values = {**values, **{name: value for fields in added for name, value in fields.items()}}
        _check_fields(path, values)
        header = parse_header(path, values["model"])
        tensors = {name: _from_base64(value) for name, value in values["likeness"].items()}
        likeness = read_likeness(header, _shape(tensors, header.architecture.num_features))
        return values, header, _golden(values["golden"], header.num_outputs), likeness
    except ModelFileError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {type(error).__name__}: {error}") from error


def _check_fields(path: Path, values: Any) -> None:
    version = values["schema_version"]
    if type(version) is int and version > SCHEMA_VERSION:
        raise ModelFileError(
            f"{path} has schema version {version} and this resnetv2 reads up to {SCHEMA_VERSION}: "
            "pip install --upgrade resnetv2"
        )
    wrong = [name for name, kind in _FIELDS.items() if type(values.get(name)) is not kind]
    if wrong or set(values) != set(_FIELDS):
        raise TypeError(f"expected the fields {', '.join(_FIELDS)}, got {', '.join(values)}; wrong: {', '.join(wrong)}")
    if values["kind"] != "artefact" or version < 1 or values["precision"] not in PRECISIONS:
        raise ValueError(f"kind {values['kind']!r}, schema_version {version}, precision {values['precision']!r}")


def _golden(values: Mapping[str, Any], outputs: int) -> Golden:
    pictures = tuple(b64decode(picture, validate=True) for picture in values["pictures"])
    logits = _from_base64(values["logits"])
    return Golden(pictures, logits.reshape(len(pictures), outputs))


def _shape(tensors: Mapping[str, np.ndarray], num_features: int) -> dict[str, np.ndarray]:
    """Return arrays as they were: those of several numbers for each feature have rows."""
    return {name: value if name == VARIANCES else value.reshape(-1, num_features) for name, value in tensors.items()}


def _to_base64(array: np.ndarray) -> str:
    return b64encode(array.astype("<f4").tobytes()).decode()


def _from_base64(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text, validate=True), "<f4").astype(np.float32)


def _digest(text: str, chunks: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256(text.encode())
    for chunk in chunks:
        digest.update(f"\0{len(chunk)}\0".encode())
        digest.update(chunk)
    return digest.hexdigest()


def _onnx_contents(path: Path) -> tuple[str | None, list[bytes | memoryview]]:
    data = memoryview(path.read_bytes())
    return read_texts(data).get(KEY), model_parts(data)


def _openvino_contents(path: Path) -> tuple[str | None, list[bytes | memoryview]]:
    xml = path.read_bytes()
    weights = path.with_suffix(".bin")
    if not os.path.exists(weights):  # noqa: PTH110  Path.exists raises on a name too long
        raise ModelFileError(f"its weights are missing: {weights.name} belongs beside it")
    found = _XML.search(xml)
    text = html.unescape(found.group(1).decode("ascii", "replace")) if found else None
    rest = xml if found is None else xml[: found.start(1)] + xml[found.end(1) :]
    return text, [rest, weights.read_bytes()]


def _torch_contents(path: Path) -> tuple[str | None, list[bytes | memoryview]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}  # the folder is the file's
            text = archive.read(members[_EXTRA]).decode() if _EXTRA in members else None
            names = sorted(name for name in members if name.startswith(("data/", "models/")))
            return text, [archive.read(members[name]) for name in names]
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, EOFError) as error:
        raise ModelFileError(f"no readable torch.export archive: {error}") from error


_CONTENTS: dict[str, Callable[[Path], tuple[str | None, list[bytes | memoryview]]]] = {
    ".onnx": _onnx_contents,
    ".xml": _openvino_contents,
    ".pt2": _torch_contents,
}
