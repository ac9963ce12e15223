"""Tables in Parquet files, as text: what a CSV of the same table would say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetv2.data.targets import SEPARATOR
from resnetv2.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = frozenset({".parquet", ".pq"})
_ROWS = 16_384  # read at once


def read_parquet(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the column names, and then each row with its place ("row 1"); nothing is kept of rows that were yielded.

    Absent values are empty, a list of texts or numbers is joined with "|", a categorical is what it stands for. Columns
    of bytes or of structures, such as pictures in the table, are not read: their cells are empty.

    Raises:
        DataError: it cannot be read.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra(f"reading {path.name}", "parquet") from error
    try:
        with ParquetFile(path) as file:
            schema, number = file.schema_arrow, 0
            yield "columns", list(schema.names)
            if len(set(schema.names)) < len(schema.names):
                raise DataError(f"{path} has columns of the same name")
            told = [field.name for field in schema if _is_told(field.type)]
            for batch in file.iter_batches(_ROWS, columns=told):
                columns = {name: _texts(batch.column(name)) for name in batch.schema.names}
                empty = [""] * batch.num_rows
                for cells in zip(*(columns.get(name, empty) for name in schema.names), strict=True):
                    number += 1
                    yield f"row {number}", list(cells)
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # texts or times that are none
        raise DataError(f"{path} is no readable Parquet file: {error}") from error


def _is_told(kind: pa.DataType) -> bool:
    """Return whether the values of a column have a text: those that are neither bytes nor have parts with names."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _is_told(kind.value_type)
    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _texts(values: pa.Array) -> list[str]:
    return [_text(value) for value in values.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return SEPARATOR.join(map(_text, value)) if isinstance(value, list) else str(value)
