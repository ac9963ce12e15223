"""Lists of pictures as CSV or Parquet files: those that people write, and those that runs save."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from resnetv2 import tasks
from resnetv2.data.parquet import PARQUET, read_parquet
from resnetv2.data.splits import SPLITS
from resnetv2.data.targets import SEPARATOR, misread
from resnetv2.errors import DataError, unknown
from resnetv2.files import replace_file

ALIASES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
COLUMNS = ("image_path", "label", "split", "size", "sha256", "group", "data_root")  # of a saved list of one class each
_TASK_OF = {column: task for task, column in tasks.COLUMNS.items()}
_ANY = "-"  # a label, where none is asked for
_SHOWN = 10  # problems spelled out in one message; the rest are counted
NUMBER = re.compile(r"[0-9]{1,18}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Row(NamedTuple):
    """One picture of a list; what it does not say is empty."""

    path: str
    label: str  # as text: a class, classes with "|" between, or a number
    split: str = ""  # of SPLITS
    group: str = ""
    size: int = -1  # bytes
    sha256: bytes = b""


def read_manifest(
    path: Path, root: Path, group_by: str | None = None, task: str | None = None
) -> tuple[list[Row], str]:
    """Read a list that somebody wrote: ``image_path,label`` and optionally ``split``, spaces around them left out.

    Args:
        path: the CSV or Parquet file.
        root: the folder that its paths are relative to.
        group_by: the column that names groups, if there is one of this name.
        task: what the labels mean. None tells it by the column: "label" holds a class, or several where "|" is in any
            of its cells; "labels" holds several, "target" a number.

    Returns:
        The pictures, and their task.

    Raises:
        DataError: no such columns, labels that cannot be read, unknown splits, files that are absent or listed twice;
            all problems at once.
    """
    column = _find_column(path, task)
    if task is None:
        several = column == "label" and any(SEPARATOR in cells[column] for _, cells in _cells(path))
        task = "multilabel" if several else _TASK_OF[column]
    return _read(path, root, task, lambda cells: _row(cells, column, group_by), _is_file(root)), task


def read_saved_manifest(path: Path, root: Path, is_there: Callable[[str], bool] | None = None) -> tuple[list[Row], str]:
    """Read a list that a run saved, to the letter; see ``read_manifest``. The column tells the task.

    Args:
        path: the CSV.
        root: the folder that its paths are relative to.
        is_there: whether the data has a path; None looks for the file.
    """
    column = _find_column(path, None)
    task = _TASK_OF[column]
    return _read(path, root, task, lambda cells: _saved_row(cells, column), is_there or _is_file(root)), task


def read_unlabelled(path: Path, root: Path) -> list[str] | None:
    """Return the paths of a list without a column of labels, as it has them; None is one that has labels.

    Raises:
        DataError: files that are absent or listed twice; all problems at once.
    """
    _, names = next(_table(path))
    if COLUMNS[0] not in names or not _TASK_OF.keys().isdisjoint(names):
        return None
    rows = _read(path, root, "classification", lambda cells: Row(cells[COLUMNS[0]].strip(), _ANY), _is_file(root))
    return [row.path for row in rows]


def read_data_root(path: Path) -> Path | None:
    """Return the data that a saved list is of, or None for a list whose paths are relative to it."""
    try:
        _, cells = next(_cells(path), ("", {}))
    except DataError:
        return None  # said where the list is read
    root = cells.get(COLUMNS[-1])
    return Path(root) if root else None


def write_manifest(path: Path, rows: Iterable[Row], data_root: Path, task: str = "classification") -> None:
    """Write a list with COLUMNS, the second named by the task, atomically; the first line says where the data is.

    Raises:
        Error: the file cannot be written.
    """
    with (
        replace_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        out, root = csv.writer(file), str(data_root.resolve())
        out.writerow((COLUMNS[0], tasks.COLUMNS[task], *COLUMNS[2:]))
        for row in rows:
            size = row.size if row.sha256 else ""
            out.writerow((row.path, row.label, row.split, size, row.sha256.hex(), row.group, root))
            root = ""


def digest_of(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the SHA-256 of paths, labels and splits."""
    digest = hashlib.sha256()
    for i, row in enumerate(rows):
        digest.update(("\n" if i else "").encode() + "\t".join(row).encode(errors="surrogateescape"))
    return digest.hexdigest()


def shorten(problems: Sequence[str], most: int = _SHOWN) -> list[str]:
    """Return the first problems and the number of the others."""
    more = len(problems) - most
    return [*problems[:most], f"… and {more} more"] if more > 0 else list(problems)


def _is_file(root: Path) -> Callable[[str], bool]:
    return lambda name: os.path.isfile(root / name)  # noqa: PTH113  Path.is_file raises on a long name


def _row(cells: dict[str, str], column: str, group_by: str | None) -> Row:
    name, label, split = (
        cells[c].strip() for c in (COLUMNS[0], column, COLUMNS[2])
    )  # people write spaces after commas
    return Row(name, label, split, cells.get(group_by, "").strip() if group_by else "")


def _saved_row(cells: dict[str, str], column: str) -> Row:
    name, label, split, size, sha256, group = (cells[c] for c in (COLUMNS[0], column, *COLUMNS[2:6]))
    known = bool(NUMBER.fullmatch(size) and SHA256.fullmatch(sha256))
    if (size or sha256) and not known:
        raise ValueError("size or sha256 is damaged")
    return Row(name, label, split, group, int(size) if known else -1, bytes.fromhex(sha256) if known else b"")


def _find_column(path: Path, task: str | None) -> str:
    """Return the column of the labels."""
    _, names = next(_table(path))
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has columns of the same name: {', '.join(twice)}")
    wanted: list[str] = [tasks.COLUMNS[task]] if task else list(_TASK_OF)
    wanted += ["label"] if task == "multilabel" else []
    found = [column for column in wanted if column in names]
    if COLUMNS[0] not in names or not found:
        where = "" if _is_parquet(path) else " in its first line"
        more = "" if task else "; a column labels in place of label holds several classes, target a number"
        raise DataError(f"{path} needs the columns image_path,{wanted[0]}[,split]{where}; got {','.join(names)}{more}")
    return found[0]


def _read(
    path: Path, root: Path, task: str, convert: Callable[[dict[str, str]], Row], is_there: Callable[[str], bool]
) -> list[Row]:
    rows, problems = [], list[str]()
    first: dict[str, str] = {}
    for place, cells in _cells(path):
        try:
            row = convert(cells)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        full = os.path.abspath(root / row.path)  # noqa: PTH100  Path.absolute keeps ".."
        unread = misread(task, row.label)
        if not row.path or unread:
            problems.append(f"{place}: {unread or 'image_path is empty'}")
        elif row.split and row.split.lower() not in ALIASES:
            problems.append(f"{place}: {unknown('split', row.split, SPLITS)}")
        elif not is_there(row.path):
            problems.append(f"{place}: no file {root / row.path}")
        elif first.setdefault(full, place) != place:
            problems.append(f"{place}: {row.path} was listed before, in {first[full]}")
        rows.append(row._replace(split=ALIASES.get(row.split.lower(), "")))
    if problems:
        raise DataError(f"{path} has problems:\n  " + "\n  ".join(shorten(problems)))
    return rows


def _cells(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place and the cells of each line by their columns; absent ones are empty."""
    table = _table(path)
    _, names = next(table)
    empty = dict.fromkeys((*COLUMNS, *names), "")
    for place, cells in table:
        yield place, empty | dict(zip(names, cells, strict=False))


def _table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the column names, and then each line that is not blank, with its place."""
    return read_parquet(path) if _is_parquet(path) else _csv_table(path)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in PARQUET


def _csv_table(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, strict=True)  # a quote that is not closed would swallow lines
            yield "line 1", next(reader, [])
            for cells in reader:
                if cells:
                    yield f"line {reader.line_num}", cells
    except (csv.Error, OSError) as error:
        raise DataError(f"{path} is no readable CSV: {error}") from error
