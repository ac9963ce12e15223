"""Published weights, from a file at hand or by name: converted into a model file, then used like any other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

import resnetv2
from resnetv2.cache import cache_path, locked
from resnetv2.config import ARCHITECTURES
from resnetv2.console import talk
from resnetv2.conversion.checkpoints import Checkpoint, digest, read_checkpoint
from resnetv2.conversion.writers import WRITERS, write_checkpoint
from resnetv2.errors import ConfigError, ConvertError, MissingExtra, ModelFileError, unknown
from resnetv2.weights.catalogue import Card, card, cards
from resnetv2.weights.download import fetch_file
from resnetv2.weights.golden import golden_pictures
from resnetv2.weights.labels import class_names
from resnetv2.weights.modelfile import SCHEMA_VERSION, Header, ModelFile, read_model_file, write_model_file
from resnetv2.weights.sealed import is_sealed

REVISION = 1  # raised when a conversion makes something else of the same file: what is kept is then made anew
_MODEL = "model"
_LABELS = {1000: "in1k", 1001: "in1k_background", 21843: "in21k_goog"}  # what so many classes stand for


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What ``convert`` wrote, and what it took the file for."""

    out: Path
    to: str
    source: str  # the publisher and, where it has several graphs, the dialect: "pytorchcv:pytorchcv-b"
    reason: str
    num_classes: int
    sha256: str  # of what was read
    caveat: str  # what of the publisher's preprocessing is assumed or differs; empty where nothing is


def convert(
    file: str | Path,
    *,
    out: str | Path,
    source: str = "auto",
    to: str = _MODEL,
    variant: str = "as-shipped",
    drop_head: bool = False,
    keep_background: bool = False,
    classes: str | Path | Sequence[str] | None = None,
) -> Conversion:
    """Convert a published checkpoint, or a model file, into a model file or a publisher's own file.

    Args:
        file: what ``conversion.read_checkpoint`` reads, or a model file; read only.
        out: the new file, with the ending of its format.
        source: whose checkpoint it is: "auto" recognises it by the names and shapes of the tensors.
        to: "model", or a key of ``conversion.writers.WRITERS``: "timm", "keras" …
        variant: "as-shipped" is the graph of the publisher's code. "as-trained", for Keras Applications and TF-Slim, is
            the graph and the preprocessing at 299 pixels that the weights were trained with; see docs/convert.md.
        drop_head: leave the classifier out; the network answers with pooled features.
        keep_background: keep class 0 of TensorFlow's 1001, which is no class of ImageNet.
        classes: class names by index, or a text file with one a line; by default ImageNet's where their number says so,
            else the numbers. Model files alone hold them.

    Raises:
        ConvertError: the file cannot be read, is not recognised or not whole; ``out`` is there already or has another
            ending; the format has no such network.
        ConfigError: class names that do not fit.
        MissingExtra: torch computes a model file's golden samples; some formats need a package of their own.
        Error: the file system refused.
    """
    file, out = Path(file), Path(out)
    _check_out(out, to)
    names = _named(classes)
    if names and to != _MODEL:
        raise ConfigError(f"a file of the format {to!r} holds no class names: leave classes out")
    checkpoint = _read(file, source, variant)
    if drop_head:
        checkpoint = checkpoint.without_head()
    elif not keep_background:
        checkpoint = checkpoint.without_background()
    elif not checkpoint.background:
        raise ConvertError(f"{file} has no background class to keep: it has {checkpoint.config.num_classes} classes")
    if to == _MODEL:
        write_model_file(out, _model_file(checkpoint, *name_classes(checkpoint, names)))
    else:
        write_checkpoint(out, checkpoint.config, checkpoint.weights, to)
    return Conversion(
        out=out,
        to=to,
        source=checkpoint.provenance["source"],
        reason=checkpoint.provenance["reason"],
        num_classes=checkpoint.config.num_classes,
        sha256=checkpoint.provenance["sha256"],
        caveat=checkpoint.provenance["preprocessing"],
    )


def fetch(names: Sequence[str]) -> list[Path]:
    """Download published weights, convert them, and keep them in the cache; what is there already is not fetched again.

    Args:
        names: such as "resnet50v2.a1h_in1k"; shell patterns such as "resnet50v2.*_in1k" stand for all that match. Model
            files that are kept already are checked, and made anew if they are damaged.

    Returns:
        The model files, in order.

    Raises:
        ConfigError: no published weights of that name.
        DownloadError: they cannot be fetched, or are not what the publisher's hash says.
        ConvertError: what was fetched is not what the catalogue says it is.
    """
    found = _matching(names)
    for published in found:
        read_published(published.name, read_model_file)
    return [_kept(published) for published in found]


def read_published(model: str | Path, read: Callable[[Path], T]) -> T:
    """Read the model file that a path or a published name stands for; a damaged one in the cache is made anew.

    Args:
        model: a model file, or a name such as "resnet50v2.a1h_in1k".
        read: ``read_model_file`` or ``read_header``.

    Raises:
        ModelFileError: neither a file nor a published name, or what ``read`` says of a file that is not the cache's.
        DownloadError, ConvertError: as ``fetch``.
    """
    path = find_model(model)
    try:
        return read(path)
    except ModelFileError as error:
        if path == Path(model):
            raise
        talk().print(f"{error}; making it anew", soft_wrap=True)
    path.unlink(missing_ok=True)
    return read(find_model(model))


def find_model(model: str | Path) -> Path:
    """Return the model file that a path or a published name stands for; fetches the latter if it is not kept yet.

    Raises:
        ModelFileError: neither a file nor a published name.
        ConfigError: the name of an architecture, which says no weights.
        DownloadError, ConvertError: as ``fetch``.
    """
    path, name = Path(model), str(model)
    if os.path.exists(path) or path.suffix == ".safetensors" or path.name != name:  # noqa: PTH110  Path.exists raises on a name too long
        return path
    known = [published.name for published in cards()]
    if name in known:
        return _kept(card(name))
    if name in ARCHITECTURES:
        raise ConfigError(_bare(name))
    raise ModelFileError(f"no file {name!r} here, and {unknown('published weights', name, known)}")


def _matching(names: Iterable[str]) -> list[Card]:
    found: dict[str, Card] = {}
    for name in names:
        if name in ARCHITECTURES:
            raise ConfigError(_bare(name))
        matches = cards(name) or [card(name)]  # which raises, with the nearest name
        found |= {match.name: match for match in matches}
    return list(found.values())


def _bare(name: str) -> str:
    choices = ", ".join(published.name for published in cards(f"{name}.*")) or "none"
    return f"{name} names an architecture, not weights; published weights of it: {choices}"


def _kept(published: Card) -> Path:
    """Return the model file of a card in the cache; made by one process while others wait."""
    known = {key: value for key, value in published.to_dict().items() if key not in ("results", "note")}
    state = json.dumps([known, REVISION, SCHEMA_VERSION], sort_keys=True)
    key = hashlib.sha256(state.encode()).hexdigest()[:8]
    path = cache_path("models", f"{published.name}-{key}.safetensors")
    if not path.exists():
        with locked(path):
            if not path.exists():
                _make(published, path)
    return path


def _make(published: Card, path: Path) -> None:
    files = [fetch_file(location) for location in published.files]
    talk().print(f"converting {published.name}: {path}", soft_wrap=True)
    with _together(published.name, files) as source:
        checkpoint = read_checkpoint(source, published.source, published.variant).without_background()
    expected = published.config
    if replace(checkpoint.config, num_classes=expected.num_classes) != expected:
        raise ConvertError(f"{files[0]} is no {published.name}: {checkpoint.provenance['reason']}")
    provenance = {**checkpoint.provenance, "name": published.name, "licence": published.licence}
    made = replace(checkpoint, preprocessing=published.preprocessing, provenance=provenance)
    write_model_file(path, _model_file(made, *name_classes(made, class_names(published.labels), published.labels)))


@contextmanager
def _together(name: str, files: Sequence[Path]) -> Iterator[Path]:
    """Yield the one file, or a folder called ``name`` in which several that belong together have their names."""
    if len(files) == 1:
        yield files[0]
        return
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        folder.mkdir()
        for file in files:
            _link(file, folder / file.name)
        yield folder


def _link(file: Path, path: Path) -> None:
    try:
        path.symlink_to(file.absolute())
    except OSError:  # Windows lets few people make links
        shutil.copyfile(file, path)


def _check_out(out: Path, to: str) -> None:
    """Refuse what cannot be written before anything is read."""
    endings = {_MODEL: ".safetensors", **{name: writer.ending for name, writer in WRITERS.items()}}
    if to not in endings:
        raise ConvertError(unknown("format", to, endings))
    if out.suffix != endings[to]:
        raise ConvertError(f"a file of the format {to!r} ends in {endings[to]}, got {out}; formats: {_spell(endings)}")
    if os.path.lexists(out):
        raise ConvertError(f"{out} exists: choose another --out")


def _spell(endings: Mapping[str, str]) -> str:
    return ", ".join(f"{to} ({ending})" for to, ending in endings.items())


def _read(file: Path, source: str, variant: str) -> Checkpoint:
    if not is_sealed(file):
        return read_checkpoint(file, source, variant)
    if (source, variant) != ("auto", "as-shipped"):
        raise ConvertError(f"{file} is a model file of resnetv2: it has neither another source nor another variant")
    model = read_model_file(file)
    header = model.header
    provenance = {
        **header.provenance,
        "source": "resnetv2",
        "reason": "a model file of resnetv2",
        "sha256": digest(file),
        "preprocessing": header.provenance.get("preprocessing", ""),
        "origin": {key: header.provenance[key] for key in ("source", "reason", "sha256") if key in header.provenance},
    }
    return Checkpoint(header.architecture, dict(model.weights), header.preprocessing, provenance, header.classes)


def name_classes(checkpoint: Checkpoint, names: tuple[str, ...], labels: str = "") -> tuple[tuple[str, ...], str]:
    """Return class names by index, and what they are in ``labels.class_names``: "" where they are nothing of that."""
    count = checkpoint.config.num_classes
    if names:
        return names, labels
    if checkpoint.classes:
        return checkpoint.classes, checkpoint.provenance.get("labels", "")
    labels = _LABELS.get(count, "")
    return class_names(labels) if labels else tuple(map(str, range(count))), labels


def _model_file(checkpoint: Checkpoint, classes: tuple[str, ...], labels: str) -> ModelFile:
    """Return the model file of a checkpoint, its golden samples answered by our own network."""
    try:
        import torch

        from resnetv2.runtime.pytorch import build_model, model_file
    except ModuleNotFoundError as error:
        raise MissingExtra("writing a model file", "train") from error
    header = Header(
        architecture=checkpoint.config,
        preprocessing=checkpoint.preprocessing,
        classes=classes,
        provenance={"created_by": f"resnetv2 {resnetv2.__version__}", **checkpoint.provenance, "labels": labels},
    )
    with np.errstate(over="ignore"):  # said below
        weights = {name: value.astype("float32", copy=False) for name, value in checkpoint.weights.items()}
    beyond = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if beyond:
        raise ConvertError(f"a model file holds float32, and numbers are beyond it in {', '.join(beyond[:12])}")
    model = build_model(checkpoint.config, weights)
    return model_file(model, header, golden_pictures(checkpoint.preprocessing.image_size), torch.device("cpu"))


def _named(classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """Return class names, read from a text file if it is given; none where none are given."""
    if classes is None:
        return ()
    if not isinstance(classes, str | Path):
        return tuple(classes)
    try:
        lines = Path(classes).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read class names from {classes}: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ConfigError(f"{classes} holds no class names: one a line is expected")
    return names
