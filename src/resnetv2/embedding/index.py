"""The index: the features of many pictures, in which the most similar are found without looking at all of them.

One sealed file: usearch's own bytes (a graph of neighbours, Malkov and Yashunin 2016, arXiv 1603.09320, with float16
features), the paths, and a header that says whose features they are. A SHA-256 covers all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.embedding.tables import Add, spell
from resnetv2.errors import MissingExtra, ModelFileError
from resnetv2.inference import Embedding
from resnetv2.weights.sealed import read_seal, read_sealed, write_sealed

KIND = "index"
SCHEMA_VERSION = 1
_FIELDS: dict[str, type] = {"model": dict, "layer": str, "preprocessing": dict, "width": int}
_THOROUGH = 128  # neighbours that are looked at for each picture that is added, and for each that is searched for


@dataclass(frozen=True)
class Index:
    """An opened index: ``header`` as ``embed`` wrote it, ``paths`` by number, and usearch's ``graph``."""

    header: Mapping[str, Any]
    paths: tuple[str, ...]
    graph: Any

    def nearest(self, features: np.ndarray, top: int) -> list[tuple[str, float]]:
        """Return the paths most similar to features (D,), each with its cosine, the most similar first."""
        found = self.graph.search(features, min(top, len(self.paths))) if self.paths else ()
        return [(self.paths[int(match.key)], 1 - float(match.distance)) for match in found]


@contextmanager
def write_index(path: Path, header: Mapping[str, Any], count: int, width: int) -> Iterator[Add]:  # noqa: ARG001
    """Yield what adds rows; those without features are left out. The features are kept in memory, 2 bytes a number.

    Raises:
        MissingExtra: usearch is not installed.
    """
    graph = _new_graph(width)
    paths: list[str] = []

    def add(rows: Sequence[Embedding]) -> None:
        there = [row for row in rows if row.features is not None]
        if there:
            keys = np.arange(len(paths), len(paths) + len(there), dtype=np.uint64)
            graph.add(keys, np.stack([row.features for row in there if row.features is not None]), threads=1)
            paths.extend(spell(row.path) for row in there)

    yield add
    told = {**header, "kind": KIND, "schema_version": SCHEMA_VERSION, "width": width}
    texts = np.frombuffer(json.dumps(paths).encode(), np.uint8)
    write_sealed(path, told, {"graph": np.frombuffer(graph.save(), np.uint8), "paths": texts})


def read_index(path: Path) -> Index:
    """Read an index and check its digest.

    Raises:
        ModelFileError: missing, damaged, of another kind, or of a newer version.
        MissingExtra: usearch is not installed.
    """
    seal = read_seal(path)
    version = seal.get("schema_version")
    if seal.get("kind") != KIND:
        raise ModelFileError(
            f"{path} is no index but a {seal.get('kind')!r}: make one with resnetv2 embed --out NAME.index"
        )
    if type(version) is not int or version > SCHEMA_VERSION:
        raise ModelFileError(
            f"{path} has schema version {version} and this resnetv2 reads up to {SCHEMA_VERSION}: "
            "pip install --upgrade resnetv2"
        )
    header, tensors = read_sealed(path)
    wrong = [name for name, kind in _FIELDS.items() if type(header.get(name)) is not kind]
    if wrong:
        raise ModelFileError(f"{path} is damaged: wrong or absent: {', '.join(wrong)}")
    graph = _new_graph(header["width"])
    try:
        paths = tuple(json.loads(tensors["paths"].tobytes()))
        graph.load(tensors["graph"].data)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if len(graph) != len(paths) or graph.ndim != header["width"]:
        shape = f"{len(graph)} × {graph.ndim} features, expected {len(paths)} × {header['width']}"
        raise ModelFileError(f"{path} is damaged: {shape}")
    return Index(header, paths, graph)


def _new_graph(width: int) -> Any:
    import onnxruntime  # noqa: F401  first: usearch 2.26 has its import crash the process when it comes after

    try:
        from usearch.index import Index as Graph
    except ImportError as error:
        raise MissingExtra("searching", "search") from error
    return Graph(ndim=width, metric="cos", dtype="f16", expansion_add=_THOROUGH, expansion_search=_THOROUGH)
