"""Which pictures a model was not trained on: the split of its run, where it can be known."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from resnetv2.console import talk
from resnetv2.data.index import Index
from resnetv2.data.manifest import Row, digest_of, read_saved_manifest, shorten
from resnetv2.errors import DataError

MANIFEST = "index.csv"
_SAMPLED = 32  # pictures whose bytes tell whether data is what a run was trained on


def run_split(
    index: Index, model: str, provenance: Mapping[str, Any], split: str, *, strict: bool = False
) -> tuple[Index, list[dict[str, str]]]:
    """Return data with the split of the model's run, and what was left out because it came later.

    The run's list is ``index.csv`` beside the model. Without one, or for other data, the index is returned as it is,
    with a warning where its splits were assigned here and are not those of the run.

    Args:
        index: the data.
        model: the model file, or "" where it is not known.
        provenance: of the model's header.
        split: what will be measured.
        strict: refuse where else a warning is given.

    Raises:
        DataError: pictures of the run's list are not in the data; they are named. Or ``strict`` refuses.
    """
    if index.given is None or ("" not in index.given and "val" in index.given):
        return index, []  # the data says every split
    number = {path: i for i, path in enumerate(index.paths)}
    rows = _read_rows(Path(model), provenance) if model else None
    if rows is None or not _is_of(rows, index, number):
        doubt = _doubt(index, provenance, split)
        if doubt and strict:
            raise DataError(doubt)
        if doubt:
            talk().print(f"warning: {doubt}", soft_wrap=True)
        return index, []
    path = Path(model).parent / MANIFEST
    missing = [row.path for row in rows if row.path not in number]
    if missing:
        names = "\n  ".join(shorten(missing))
        raise DataError(
            f"{index.root} lacks {len(missing)} of the {len(rows)} pictures that the model's run has in {path}; "
            f"bring them back, or move that list away:\n  {names}"
        )
    talk().print(f"splits as in the model's run: {path}", soft_wrap=True)
    splits = np.full(len(index.paths), "", "<U5")
    for row in rows:
        splits[number[row.path]] = row.split
    later = np.flatnonzero(splits == "").tolist()
    left_out = [{"path": index.paths[i], "reason": f"not in {path}"} for i in later]
    return replace(index, splits=splits, given=None).without(set(later)), left_out


def check_unseen(index: Index, model: str, provenance: Mapping[str, Any], split: str) -> None:
    """Refuse pictures that a model's run has in another split, whatever they are called here.

    They are known by their bytes, where the run's list lies beside the model and holds hashes.

    Raises:
        DataError: naming them.
    """
    rows = _read_rows(Path(model), provenance) or []
    elsewhere = {row.sha256: row.split for row in rows if row.sha256 and row.split != split}
    for row in rows:
        if row.split == split:
            elsewhere.pop(row.sha256, None)  # a copy is in both
    if not elsewhere:
        return
    found = []
    for i, path in enumerate(index.paths):
        with contextlib.suppress(OSError):  # what cannot be read is said where it is decoded
            there = elsewhere.get(sha256(index.place(i).read_bytes()).digest())
            found += [f"{path} is of {there!r}"] if there else []
    if found:
        names = "\n  ".join(shorten(found))
        raise DataError(
            f"{len(found)} of these {len(index.paths)} pictures are of another split than {split!r} in the model's run "
            f"({Path(model).parent / MANIFEST}):\n  {names}"
        )


def _read_rows(model: Path, provenance: Mapping[str, Any]) -> list[Row] | None:
    """Return the list beside a model, if it is the one that the model was trained on."""
    path = model.parent / MANIFEST
    if not (model.is_file() and path.is_file()):
        return None
    rows, _ = read_saved_manifest(path, path.parent, lambda _: True)
    return rows if digest_of(row[:3] for row in rows) == _digest(provenance) else None


def _digest(provenance: Mapping[str, Any]) -> str | None:
    data = provenance.get("data")
    return data.get("sha256") if isinstance(data, Mapping) else None


def _is_of(rows: Sequence[Row], index: Index, number: Mapping[str, int]) -> bool:
    """Return whether data is what a list names: half of a few pictures, taken evenly, are there with the same bytes."""
    places = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).round().astype(int)).tolist()
    same = 0
    for row in (rows[i] for i in places):
        if row.path in number:
            try:
                content = index.place(number[row.path]).read_bytes()
            except (OSError, DataError):
                continue
            same += not row.sha256 or sha256(content).digest() == row.sha256
    return 2 * same >= len(places)


def _doubt(index: Index, provenance: Mapping[str, Any], split: str) -> str:
    """Return why a split may not be the run's, "" where nothing says so."""
    trained_on = _digest(provenance)
    if index.assigned and split in ("val", "test") and trained_on and trained_on != index.digest():
        return (
            f"the {split} split was assigned now and is not that of the model's run: pictures that it was "
            f"trained on may be among these. Keep the run's {MANIFEST} beside the model, or give that as DATA"
        )
    return ""
