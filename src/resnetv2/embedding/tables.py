"""Tables of features, by the ending of their file: a row for each picture, and a JSON header that says whose they are.

Each is written row by row and read by the libraries that everybody has. What is no UTF-8 in a path is escaped.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from resnetv2.errors import MissingExtra
from resnetv2.inference import Embedding

KEY = "resnetv2"  # of the header
Add = Callable[[Sequence[Embedding]], None]
Write = Callable[[Path, Mapping[str, Any], int, int], AbstractContextManager[Add]]


@contextmanager
def write_parquet(path: Path, header: Mapping[str, Any], count: int, width: int) -> Iterator[Add]:  # noqa: ARG001
    """Yield what adds rows: columns path, features (a list of ``width`` float32, or null) and error (or null).

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise MissingExtra("writing .parquet", "parquet") from error
    kinds = {"path": pa.string(), "features": pa.list_(pa.float32(), width), "error": pa.string()}
    schema = pa.schema(kinds, metadata={KEY: json.dumps(header)})
    with ParquetWriter(path, schema) as writer:

        def add(rows: Sequence[Embedding]) -> None:
            there = np.array([row.features is not None for row in rows])
            numbers = pa.array(_stack(rows, width).ravel())
            features = pa.FixedSizeListArray.from_arrays(numbers, width, mask=pa.array(~there))
            paths = pa.array([spell(row.path) for row in rows], pa.string())
            errors = pa.array([None if row.error is None else spell(row.error) for row in rows], pa.string())
            writer.write_table(pa.table([paths, features, errors], schema=schema))

        yield add


@contextmanager
def write_npz(path: Path, header: Mapping[str, Any], count: int, width: int) -> Iterator[Add]:
    """Yield what adds rows: arrays features float32 (count, width), NaN where there are none, paths, errors, header."""
    paths: list[str] = []
    errors: list[str] = []
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            npy.write_array_header_2_0(member, shape)

            def add(rows: Sequence[Embedding]) -> None:
                member.write(_stack(rows, width).astype("<f4", copy=False).data)
                paths.extend(spell(row.path) for row in rows)
                errors.extend(spell(row.error or "") for row in rows)

            yield add
        for name, value in (("paths", paths), ("errors", errors), ("header", json.dumps(header))):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, np.array(value, np.str_), allow_pickle=False)


def spell(text: str) -> str:
    """Return text as UTF-8 has it."""
    return text.encode(errors="backslashreplace").decode()


def _stack(rows: Sequence[Embedding], width: int) -> np.ndarray:
    """Return features float32 (rows, width), NaN where there are none."""
    nothing = np.full(width, np.nan, np.float32)
    return np.stack([nothing if row.features is None else row.features for row in rows])
