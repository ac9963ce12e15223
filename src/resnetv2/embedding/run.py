"""``embed``: the features of many pictures, written as they come."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.index import refuse_inside
from resnetv2.embedding.index import write_index
from resnetv2.embedding.tables import Write, write_npz, write_parquet
from resnetv2.errors import ConfigError, Error
from resnetv2.files import replace_file
from resnetv2.inference import Classifier, Embedding, expand, read_model
from resnetv2.runtime.artefact import Artefact
from resnetv2.runtime.choice import AUTO
from resnetv2.runtime.session import POOLED
from resnetv2.weights.modelfile import ModelFile
from resnetv2.weights.sealed import digest_of

SCHEMA_VERSION = 1
FORMATS: dict[str, Write] = {".parquet": write_parquet, ".npz": write_npz, ".index": write_index}
_ROWS = 1024  # written at once: 8 MB of ResNet50-v2's features


@dataclass(frozen=True)
class Embedded:
    """What ``embed`` wrote.

    Attributes:
        out: the file.
        pictures: those that were asked for.
        width: numbers in a row.
        unreadable: the pictures whose row has an error instead.
    """

    out: Path
    pictures: int
    width: int
    unreadable: tuple[Embedding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        errors = [{"path": one.path, "error": one.error} for one in self.unreadable]
        return {"out": str(self.out), "pictures": self.pictures, "width": self.width, "errors": errors}


def embed(
    model: str | Path,
    pictures: Sequence[str | Path],
    *,
    out: str | Path,
    layer: str = POOLED,
    normalize: bool = False,
    device: str = "auto",
    runtime: str = AUTO,
    progress: Counter | None = None,
) -> Embedded:
    """Write the features of pictures and folders of pictures into a table, a row for each, in order, or into an index.

    Memory does not grow with the number of pictures, but for an index. The file appears when it is whole. It says whose
    features it holds: the model's name and identity, the layer, and how pictures were prepared; see docs/embed.md.

    Args:
        model: a model file, an artefact, or published weights by name.
        pictures: files and folders; folders are searched through.
        out: the new file: .parquet or .npz, or .index for ``search``, which has no row for what cannot be read.
        layer: "pooled" is what the network's head classifies; of "stage1", "stage2" … the mean over the map's places.
            An artefact for torch has "pooled" alone.
        normalize: scale every row to length 1.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.
        progress: called with the pictures that are done and the total.

    Raises:
        ConfigError: another ending, a place among the pictures, or no such layer, device or runtime.
        DataError: a folder holds no pictures. A picture that cannot be read has its error in its row instead.
        ModelFileError: see ``Classifier.load``.
        MissingExtra: .parquet needs pyarrow, .index usearch.
        Error: ``out`` exists, or the file system refused.
    """
    out = Path(out)
    _check_out(out)
    _refuse_among(out, pictures)
    paths = expand(pictures)
    file = read_model(model)
    classifier = Classifier.from_file(file, device, runtime, len(paths))
    side = classifier.header.preprocessing.image_size
    # A blank picture is asked about first: a layer that is not there is told before any picture is read.
    width = classifier.features(np.zeros((1, side, side, 3), np.uint8), layer).shape[1]
    header = {
        "kind": "embeddings",
        "schema_version": SCHEMA_VERSION,
        "model": {"name": str(model), "sha256": identify(file)},
        "layer": layer,
        "normalize": normalize,
        "preprocessing": classifier.header.preprocessing.to_dict(),
    }
    unreadable: list[Embedding] = []
    with replace_file(out, new=True) as temporary, FORMATS[out.suffix](temporary, header, len(paths), width) as add:
        answers = _told(classifier.embed(paths, layer, normalize), len(paths), progress)
        while rows := list(islice(answers, _ROWS)):
            add(rows)
            unreadable += [row for row in rows if row.error is not None]
    return Embedded(out, len(paths), width, tuple(unreadable))


def _told(rows: Iterator[Embedding], total: int, progress: Counter | None) -> Iterator[Embedding]:
    """Yield rows, and tell how many."""
    for done, row in enumerate(rows, 1):
        yield row
        if progress is not None:
            progress(done, total)


def identify(file: ModelFile | Artefact) -> str:
    """Return a SHA-256 of what decides a model's features: weights, architecture and preprocessing, or an artefact.

    Golden samples, metrics and provenance do not count, so that published weights that two machines converted are one
    model.
    """
    if isinstance(file, Artefact):
        return file.sha256
    header = {
        "architecture": file.header.architecture.to_dict(),
        "preprocessing": file.header.preprocessing.to_dict(),
    }
    return digest_of(header, file.weights)


def _refuse_among(out: Path, pictures: Sequence[str | Path]) -> None:
    """Refuse a place below a folder of pictures, or beside a picture, whatever links lead there.

    Raises:
        ConfigError: it is such a place.
    """
    folder = os.path.dirname(os.path.realpath(out))  # noqa: PTH120  text: there may be millions of pictures
    for picture in pictures:
        if os.path.isdir(picture):  # noqa: PTH112  likewise
            refuse_inside(out, Path(picture))
        elif folder in (os.path.realpath(os.path.dirname(picture)), os.path.dirname(os.path.realpath(picture))):  # noqa: PTH120
            raise ConfigError(f"{out} lies among the pictures, which are only read: choose another place")


def _check_out(out: Path) -> None:
    if out.suffix not in FORMATS:
        raise ConfigError(f"features are written as {', '.join(FORMATS)}, got {out}")
    if os.path.lexists(out):
        raise Error(f"{out} exists: choose another --out")
