"""Which pictures there are, what they show, and which split each belongs to. The folder is only ever read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, overload

import numpy as np

from resnetv2.data.duplicates import Group
from resnetv2.data.manifest import (
    ALIASES,
    Row,
    digest_of,
    read_data_root,
    read_manifest,
    read_saved_manifest,
    read_unlabelled,
    shorten,
    write_manifest,
)
from resnetv2.data.names import Names
from resnetv2.data.parquet import PARQUET
from resnetv2.data.shards import SHARD_LIST, Member, Shards, read_shards
from resnetv2.data.splits import SPLITS, assign_splits, join_groups, match_groups
from resnetv2.data.targets import class_names, count_classes, encode_labels, label_text, misread, natural_key
from resnetv2.errors import ConfigError, DataError
from resnetv2.preprocess import SUFFIXES, Readable

_SHOWN = 10  # problems spelled out in one message; the rest are counted


@dataclass(frozen=True)
class Samples:
    """Pictures of one split: n paths, or other places to read them from, and n labels; see ``encode_labels``."""

    paths: Sequence[Readable]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Contents:
    """What n picture files hold: their sizes in bytes, int64 (n,), and SHA-256, uint8 (n, 32)."""

    size: np.ndarray
    sha256: np.ndarray


@dataclass(frozen=True)
class Index:
    """Every picture with its label and split; see ``encode_labels`` for labels, classes and task."""

    root: Path
    paths: Sequence[str]  # relative to root
    labels: np.ndarray  # (n,), or (n, classes) where a picture may have several
    splits: np.ndarray  # text, of SPLITS
    classes: tuple[str, ...]
    shards: Shards | None = None  # where the pictures are, if not in files of their own
    given: np.ndarray | None = None  # the splits that the data says, "" where it says none; None: all of them
    groups: Sequence[str] | None = None  # what is never parted when splits are assigned; "" for a picture alone
    contents: Contents | None = None
    task: str = "classification"

    def place(self, i: int) -> Path | Member:
        """Return what the bytes of picture number ``i`` can be read from."""
        return self.root / self.paths[i] if self.shards is None else self.shards.member(i, self.paths[i])

    def label(self, i: int) -> str:
        """Return what picture number ``i`` shows, as text: a class, classes with "|" between, or a number."""
        return label_text(self.task, self.labels[i], self.classes)

    def opener(self) -> Callable[[str], Readable]:
        """Return what turns a path, relative to the data, into what its bytes can be read from."""
        if self.shards is None:
            return self.root.joinpath
        number = {path: i for i, path in enumerate(self.paths)}
        return lambda path: self.place(number[path]) if path in number else self.root / path

    def split(self, name: str) -> Samples:
        """Return the pictures of a split, or every picture for "all".

        Raises:
            DataError: there is no such split here, naming those that are.
        """
        chosen = np.flatnonzero((self.splits == name) | (name == "all"))
        if not len(chosen):
            there = [s for s in SPLITS if (self.splits == s).any()]
            raise DataError(f"{self.root} has no {name!r} split; it has {', '.join(map(repr, there))}")
        return Samples(_Places(self, chosen), self.labels[chosen])

    def counts(self) -> dict[str, int]:
        """Return the number of pictures in each split."""
        return {s: int((self.splits == s).sum()) for s in SPLITS}

    def table(self) -> np.ndarray:
        """Return the number of pictures of each class in each split, int64 (classes, splits)."""
        size = len(self.classes)
        return np.stack([count_classes(self.task, self.labels[self.splits == s], size) for s in SPLITS], axis=1)

    def without(self, places: Collection[int]) -> Index:
        """Return the index without the pictures at these places; classes keep their numbers."""
        return self.take([i for i in range(len(self.paths)) if i not in places])

    def take(self, places: Sequence[int]) -> Index:
        """Return the index of the pictures at these places, in this order; classes keep their numbers."""
        contents = self.contents
        return replace(
            self,
            paths=Names(self.paths[i] for i in places),
            labels=self.labels[places],
            splits=self.splits[places],
            shards=self.shards and self.shards.take(places),
            given=None if self.given is None else self.given[places],
            groups=None if self.groups is None else Names(self.groups[i] for i in places),
            contents=contents and Contents(contents.size[places], contents.sha256[places]),
        )

    @property
    def assigned(self) -> bool:
        """Whether some of the splits were chosen here."""
        return self.given is not None and bool((self.given != self.splits).any())

    def keep_together(self, copies: Sequence[Group]) -> Index:
        """Return the index with splits that part no copies of a picture, where they are ours to assign."""
        groups = join_groups(self.paths, self.groups, copies)
        given = self.splits if self.given is None else self.given
        names = class_names(self.task, self.labels, self.classes)
        splits = assign_splits(self.paths, names, given.tolist(), groups)
        return replace(self, groups=groups if any(groups) else None, splits=np.array(splits))

    def check_trainable(self) -> None:
        """Refuse data that cannot train a network.

        Raises:
            DataError: no training or validation pictures, nothing to tell apart, classes with a single picture, or
                classes that are never trained; all problems at once.
        """
        problems = [f"class {name!r} {why}" if name else why for name, why in self.obstacles()]
        if problems:
            what = "a network" if self.task == "regression" else "a classifier"
            raise DataError(f"{self.root} cannot train {what}:\n  " + "\n  ".join(shorten(problems)))

    def obstacles(self) -> list[tuple[str, str]]:
        """Return why this cannot train a network: the class, or "" where it is not about one, and the reason."""
        table = self.table()
        whole = ", for pictures that belong together are not parted: say the split in folders or a CSV"
        why = whole if self.groups is not None and self.given is not None and (self.given == "").any() else ""
        found = [("", f"there are no {s!r} pictures{why}") for s in SPLITS[:2] if not table[:, SPLITS.index(s)].any()]
        if self.task == "regression":
            same = len(self.labels) > 0 and len(np.unique(self.labels)) < 2
            return [*found, ("", f"every target is {self.labels[0]:g}; there is nothing to learn")] if same else found
        if self.task == "multilabel" and not len(self.classes):
            found.append(("", "no picture has a label"))
        if self.task == "classification" and len(self.classes) < 2:
            found.append(("", f"there is one class only, {self.classes[0]!r}; a classifier needs two or more"))
        for name, counts in zip(self.classes, table, strict=True):
            if not counts.any():
                found.append((name, "has no picture that can be read"))
            elif counts.sum() == 1:
                found.append((name, "has a single picture; it needs one to train and one to check"))
            elif not counts[0]:
                where = " and ".join(repr(s) for s, n in zip(SPLITS, counts, strict=True) if n)
                found.append((name, f"is in {where} but not in 'train'"))
        return found

    def rows(self) -> Iterator[Row]:
        """Yield what is known of each picture."""
        contents = self.contents
        for i, (path, split) in enumerate(zip(self.paths, self.splits.tolist(), strict=True)):
            group = "" if self.groups is None else self.groups[i]
            size, sha256 = (-1, b"") if contents is None else (int(contents.size[i]), contents.sha256[i].tobytes())
            yield Row(path, self.label(i), split, group, size, sha256)

    def write_csv(self, path: Path) -> None:
        """Write the manifest, with paths relative to the data; see ``manifest.COLUMNS``."""
        write_manifest(path, self.rows(), self.root, self.task)

    def digest(self) -> str:
        """Return the SHA-256 of paths, labels and splits: two runs with the same one trained on the same list."""
        return digest_of(row[:3] for row in self.rows())


class _Places(Sequence[Readable]):
    """Some pictures of an index, each place made when it is asked for: a million of them would fill the memory."""

    def __init__(self, index: Index, chosen: np.ndarray) -> None:
        self._index, self._chosen = index, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, place: int) -> Readable: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Readable]: ...
    def __getitem__(self, place: int | slice) -> Readable | Sequence[Readable]:
        if isinstance(place, slice):
            return _Places(self._index, self._chosen[place])
        return self._index.place(int(self._chosen[place]))


def refuse_inside(out: str | Path, data: Path) -> None:
    """Refuse to write where data is only read: over a picture or the list itself, or anywhere below its folder.

    Beside a list that names no folder of its own, there is room.

    Raises:
        ConfigError: ``out`` is such a place.
    """
    place, real = (Path(os.path.realpath(path)) for path in (out, data))
    root = data if data.is_dir() else read_data_root(data)
    if root is not None and place.is_relative_to(os.path.realpath(root)):
        raise ConfigError(f"{out} lies inside {root}, which is only read: choose another place")
    if place == real or (place.suffix.lower() in SUFFIXES and os.path.lexists(out)):
        raise ConfigError(f"{out} is there already and would be lost: choose another place")


def read_index(data: Path, group_by: str | None = None, task: str | None = None) -> Index:
    """Find the pictures of a folder, a manifest (CSV or Parquet) or a packed folder.

    ``root/{train,val,test}/class/*``, ``root/class/*`` (split here, the same way every time) or a CSV with the columns
    ``image_path,label`` and optionally ``split``, paths relative to the CSV, or the ``index.csv`` that a run saved.
    Classes are sorted by ``natural_key``.

    Args:
        data: the folder or manifest.
        group_by: pictures that have the same text here are never parted: a column of the manifest, or else a regular
            expression on the path, of which the first group counts if it has one.
        task: what the labels are taken for, of TASKS; None is what the data says: a folder one class for each picture,
            a manifest by its columns (see ``read_manifest``).

    Raises:
        DataError: missing, empty, no pictures, classes that cannot be used, or ``group_by`` that names nothing; all
            problems at once.
    """
    if not os.path.exists(data):  # noqa: PTH110  Path.exists raises on a name too long
        raise DataError(f"no such folder or CSV file: {data}")
    if os.path.isfile(data / SHARD_LIST):  # noqa: PTH113  Path.is_file raises where one may not look
        packed, shards, packed_task = read_shards(data)
        return _regroup(_build(data, packed, task or packed_task, shards), group_by)
    if data.is_dir():
        try:
            return _group(_build(data, _read_folder(data), task or "classification"), group_by)
        except OSError as error:
            _refuse(error)
        except RecursionError as error:
            raise DataError(f"{data} has folders in folders too deep to be looked through") from error
    if data.suffix.lower() not in {".csv", *PARQUET}:
        raise DataError(
            f"{data} is neither a folder of pictures nor a .csv or .parquet file (archives must be unpacked first)"
        )
    root = read_data_root(data)
    if root is None:
        rows, told = read_manifest(data, data.parent, group_by, task)
        _check_listed(data, rows)
        index = _build(data.parent, rows, told)
    elif os.path.isdir(root):  # noqa: PTH112  as above
        return _regroup(read_saved_index(data, root, task), group_by)
    else:
        raise DataError(f"{data} lists pictures of {root}, which is not there: give the folder where they are now")
    return _group(index, group_by)


def read_saved_index(path: Path, data: Path, task: str | None = None) -> Index:
    """Read the manifest that a run saved, for the data it was made of; the splits are the saved ones.

    Raises:
        DataError: the data is not there, or lacks pictures of the manifest.
    """
    if not os.path.exists(data):  # noqa: PTH110  as above
        raise DataError(f"no such folder or CSV file: {data}")
    if data.is_file():
        data = read_data_root(data) or data.parent
    if not (data / SHARD_LIST).is_file():
        rows, saved_task = read_saved_manifest(path, data)
        return _build(data, rows, task or saved_task)
    packed, shards, _ = read_shards(data)
    number = {row.path: i for i, row in enumerate(packed)}
    rows, saved_task = read_saved_manifest(path, data, number.__contains__)
    return _build(data, rows, task or saved_task, shards.take([number[row.path] for row in rows]))


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures below a folder by their endings, in natural order.

    Hidden files are left out, and links to folders are not followed.
    """
    return [folder / name for name in _picture_names(folder)]


def find_unlabelled(data: Path) -> list[Path] | None:
    """Return the pictures of a folder without folders in it, or of a CSV or Parquet file without a column of labels.

    None is what has labels, or cannot be read: ``read_index`` takes it or says why not.

    Raises:
        DataError: a list names no files, absent ones, or one of them twice.
    """
    if data.suffix.lower() in {".csv", *PARQUET} and os.path.isfile(data):  # noqa: PTH113  as above
        names = read_unlabelled(data, data.parent)
        if names is None:
            return None
        _check_listed(data, names)
        return [data.parent / name for name in names]
    try:
        inside = list(os.scandir(data))
    except OSError:
        return None
    if any(entry.name == SHARD_LIST or (entry.is_dir() and not entry.name.startswith(".")) for entry in inside):
        return None
    return find_pictures(data) or None


def _check_listed(data: Path, entries: Sequence[Row] | Sequence[str]) -> None:
    if not entries:
        raise DataError(f"{data} lists no pictures: expected a line for each below the columns' names")


def _picture_names(folder: Path) -> list[str]:
    """Return the same pictures relative to the folder, "/" between names: text, ten times as fast as paths."""
    found, start = [], len(os.path.join(folder, ""))  # noqa: PTH118
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        inside = f"{base[start:]}/".replace(os.sep, "/").lstrip("/")
        pictures = (f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES)  # noqa: PTH122
        found += [inside + f for f in pictures if not f.startswith(".")]
    return sorted(found, key=natural_key)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _build(root: Path, rows: Sequence[Row], task: str, shards: Shards | None = None) -> Index:
    if not rows:
        raise DataError(f"no pictures in {root}: expected root/class/*.jpg or root/train/class/*.jpg ({_endings()})")
    problems = [f"{row.path}: {why}" for row in rows if (why := misread(task, row.label))]
    if problems:
        raise DataError(f"{root} cannot be read for {task}:\n  " + "\n  ".join(shorten(problems)))
    labels, classes = encode_labels(task, [row.label for row in rows])
    given = np.array([row.split for row in rows], "<U5")
    paths, groups = Names(row.path for row in rows), Names(row.group for row in rows)
    contents = None
    if all(row.sha256 for row in rows):
        sha256 = np.frombuffer(b"".join(row.sha256 for row in rows), np.uint8).reshape(-1, 32)
        contents = Contents(np.array([row.size for row in rows], np.int64), sha256)
    index = Index(
        root,
        paths,
        labels,
        given,
        classes,
        shards,
        given=given,
        groups=groups if any(groups) else None,
        contents=contents,
        task=task,
    )
    return index.keep_together(())


def _regroup(index: Index, group_by: str | None) -> Index:
    """Return the index of a list of ours with the groups that it names, unless others are asked for."""
    return index if group_by in (None, "group") else _group(replace(index, groups=None), group_by)


def _group(index: Index, group_by: str | None) -> Index:
    """Return the index with groups named by their paths, unless a column of the CSV named some."""
    if group_by is None or index.groups is not None:
        return index
    groups = Names(match_groups(index.paths, group_by))
    return replace(index, groups=groups).keep_together(())


def _read_folder(root: Path) -> list[Row]:
    folders = sorted(
        (f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: natural_key(f.name)
    )
    parts = {f: ALIASES[f.name.lower()] for f in folders if f.name.lower() in ALIASES}
    if "train" in parts.values() or (parts and len(parts) == len(folders)):
        strangers = [f.name for f in folders if f not in parts]
        if strangers:
            raise DataError(
                f"{root} has splits and other folders side by side: {', '.join(map(repr, strangers[:_SHOWN]))}; "
                "rename the one or the other, or list the pictures in a CSV"
            )
        return [row for folder, split in parts.items() for row in _read_classes(root, folder, split)]
    return _read_classes(root, root, "")


def _read_classes(root: Path, parent: Path, split: str) -> list[Row]:
    rows, empty = [], []
    for folder in sorted((f for f in parent.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name)):
        if folder.name.startswith("."):
            continue
        found, place = _picture_names(folder), folder.relative_to(root).as_posix()
        if not found:
            empty.append(folder)
        rows += [Row(f"{place}/{name}", folder.name, split) for name in found]
    if rows and empty:
        raise DataError("class folders without pictures:\n  " + "\n  ".join(shorten([str(f) for f in empty])))
    return rows


def _endings() -> str:
    return " ".join(sorted(SUFFIXES))
