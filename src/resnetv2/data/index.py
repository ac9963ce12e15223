"""Which pictures there are, what they show, and which split each belongs to. The folder is only ever read."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, overload

import numpy as np

from resnetv2.data.names import Names
from resnetv2.data.shards import SHARD_LIST, Member, Shards, read_shards
from resnetv2.errors import DataError, unknown
from resnetv2.files import replace_file
from resnetv2.preprocess import SUFFIXES, Readable

SPLITS = ("train", "val", "test")
_ALIASES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SHOWN = 10  # problems spelled out in one message; the rest are counted


@dataclass(frozen=True)
class Samples:
    """Pictures of one split: n paths, or other places to read them from, and n class indices (int64)."""

    paths: Sequence[Readable]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Index:
    """Every picture with its label and split; ``classes[label]`` is the class name."""

    root: Path
    paths: Sequence[str]  # relative to root
    labels: np.ndarray  # int64
    splits: np.ndarray  # text, of SPLITS
    classes: tuple[str, ...]
    shards: Shards | None = None  # where the pictures are, if not in files of their own

    def place(self, i: int) -> Path | Member:
        """Return what the bytes of picture number ``i`` can be read from."""
        return self.root / self.paths[i] if self.shards is None else self.shards.member(i, self.paths[i])

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
        return np.stack([np.bincount(self.labels[self.splits == s], minlength=size) for s in SPLITS], axis=1)

    def without(self, places: Collection[int]) -> Index:
        """Return the index without the pictures at these places; classes keep their numbers."""
        kept = [i for i in range(len(self.paths)) if i not in places]
        paths, shards = Names(self.paths[i] for i in kept), self.shards and self.shards.take(kept)
        return replace(self, paths=paths, labels=self.labels[kept], splits=self.splits[kept], shards=shards)

    def check_trainable(self) -> None:
        """Refuse data that cannot train a classifier.

        Raises:
            DataError: no training or validation pictures, one class only, classes with a single picture, or classes
                that are never trained; all problems at once.
        """
        table = self.table()
        problems = [f"there are no {s!r} pictures" for s in ("train", "val") if not table[:, SPLITS.index(s)].any()]
        if len(self.classes) < 2:
            problems.append(f"there is one class only, {self.classes[0]!r}; a classifier needs two or more")
        for name, counts in zip(self.classes, table, strict=True):
            if not counts.any():
                problems.append(f"class {name!r} has no picture that can be read")
            elif counts.sum() == 1:
                problems.append(f"class {name!r} has a single picture; it needs one to train and one to check")
            elif not counts[0]:
                where = " and ".join(repr(s) for s, n in zip(SPLITS, counts, strict=True) if n)
                problems.append(f"class {name!r} is in {where} but not in 'train'")
        if problems:
            raise DataError(f"{self.root} cannot train a classifier:\n  " + "\n  ".join(_shorten(problems)))

    def write_csv(self, path: Path) -> None:
        """Write the manifest ``image_path,label,split``, with paths relative to the data."""
        with (
            replace_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(("image_path", "label", "split"))
            rows.writerows(zip(self.paths, (self.classes[i] for i in self.labels), self.splits, strict=True))

    def digest(self) -> str:
        """Return the SHA-256 of paths, labels and splits: two runs with the same one trained on the same list."""
        text = "\n".join(
            f"{p}\t{self.classes[i]}\t{s}" for p, i, s in zip(self.paths, self.labels, self.splits, strict=True)
        )
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


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


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which numbers inside names count as numbers: "2" before "10", "img9" before "img10".

    Different names have different keys ("1" and "01"), so that no order depends on where the names came from.
    """
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
    return [*parts, (-1, 0, name)]


def read_index(data: Path) -> Index:
    """Find the pictures of a folder, a CSV manifest or a packed folder.

    ``root/{train,val,test}/class/*``, ``root/class/*`` (split here, the same way every time) or a CSV with the columns
    ``image_path,label`` and optionally ``split``, paths relative to the CSV. Classes are sorted by ``natural_key``.

    Raises:
        DataError: missing, empty, no pictures, or classes that cannot be used; all problems at once.
    """
    if not os.path.exists(data):  # noqa: PTH110  Path.exists raises on a name too long
        raise DataError(f"no such folder or CSV file: {data}")
    if (data / SHARD_LIST).is_file():
        rows, shards = read_shards(data)
        return _build(data, rows, shards)
    if data.is_dir():
        root = data
        try:
            rows = _read_folder(root)
        except OSError as error:
            _refuse(error)
    elif data.suffix.lower() == ".csv":
        root = data.parent
        rows = _read_csv(data, root)
    else:
        raise DataError(f"{data} is neither a folder of pictures nor a .csv file (archives must be unpacked first)")
    return _build(root, rows)


def read_saved_index(path: Path, data: Path) -> Index:
    """Read the manifest that a run saved, for the data it was made of; the splits are the saved ones.

    Raises:
        DataError: the data is not there, or lacks pictures of the manifest.
    """
    if not os.path.exists(data):  # noqa: PTH110  as above
        raise DataError(f"no such folder or CSV file: {data}")
    root = data if data.is_dir() else data.parent
    if not (data / SHARD_LIST).is_file():
        return _build(root, _read_csv(path, root, exact=True))
    packed, shards = read_shards(data)
    number = {name: i for i, (name, _, _) in enumerate(packed)}
    rows = _read_csv(path, root, exact=True, is_there=number.__contains__)
    return _build(root, rows, shards.take([number[name] for name, _, _ in rows]))


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures below a folder by their endings, in natural order.

    Hidden files are left out, and links to folders are not followed.
    """
    found = []
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(base, f) for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda p: natural_key(p.relative_to(folder).as_posix()))


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def assign_splits(paths: Sequence[str], labels: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Give every picture without a split one by a hash of its path: about 80 % train, 10 % val, 10 % test.

    Pictures that come or go move no other, save in classes so small that chance left a split empty. Splits that were
    given are kept. "test" gets nothing more where the data has test pictures; where every picture has a split but none
    is "val", about a tenth of "train" becomes it.
    """
    given = set(splits)
    if "val" in given and "" not in given:
        return list(splits)
    movable = "" if "" in given else "train"
    order = ("train", "val") if movable == "train" or "test" in given else ("train", "val", "test")
    out = [split or "train" for split in splits]
    by_class: dict[str, list[int]] = {}
    for i, (label, split) in enumerate(zip(labels, splits, strict=True)):
        if split == movable:
            by_class.setdefault(label, []).append(i)
    for members in by_class.values():
        members.sort(key=lambda i: _share_of_one(paths[i]))
        for i in members:
            tenth = int(10 * _share_of_one(paths[i]))
            out[i] = order[tenth + 1] if tenth + 1 < len(order) else "train"
        for name in order[: len(members)]:  # no split stays empty where there are pictures enough
            held = Counter(out[i] for i in members)
            if not held[name]:
                largest = max(order, key=lambda split: (held[split], order.index(split)))
                out[next(i for i in members if out[i] == largest)] = name
    return out


def _share_of_one(path: str) -> float:
    """Return a number in [0, 1) that depends on the path alone."""
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _build(root: Path, rows: list[tuple[str, str, str]], shards: Shards | None = None) -> Index:
    if not rows:
        raise DataError(f"no pictures in {root}: expected root/class/*.jpg or root/train/class/*.jpg ({_endings()})")
    paths, labels, splits = map(list, zip(*rows, strict=True))
    splits = assign_splits(paths, labels, splits)
    nameless = sorted({name for name in labels if name.encode(errors="replace").decode() != name})
    if nameless:  # they could not be printed, nor sent as JSON
        raise DataError("class names that are no UTF-8 text; rename them: " + ", ".join(map(repr, nameless[:_SHOWN])))
    classes = tuple(sorted(set(labels), key=natural_key))
    number = {name: i for i, name in enumerate(classes)}
    numbers = np.array([number[name] for name in labels], np.int64)
    return Index(root, Names(paths), numbers, np.array(splits), classes, shards)


def _read_folder(root: Path) -> list[tuple[str, str, str]]:
    folders = sorted(
        (f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: natural_key(f.name)
    )
    parts = {f: _ALIASES[f.name.lower()] for f in folders if f.name.lower() in _ALIASES}
    if "train" in parts.values() or (parts and len(parts) == len(folders)):
        strangers = [f.name for f in folders if f not in parts]
        if strangers:
            raise DataError(
                f"{root} has splits and other folders side by side: {', '.join(map(repr, strangers[:_SHOWN]))}; "
                "rename the one or the other, or list the pictures in a CSV"
            )
        return [row for folder, split in parts.items() for row in _read_classes(root, folder, split)]
    return _read_classes(root, root, "")


def _read_classes(root: Path, parent: Path, split: str) -> list[tuple[str, str, str]]:
    rows, empty = [], []
    for folder in sorted((f for f in parent.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name)):
        if folder.name.startswith("."):
            continue
        found = find_pictures(folder)
        if not found:
            empty.append(folder)
        rows += [(p.relative_to(root).as_posix(), folder.name, split) for p in found]
    if rows and empty:
        raise DataError("class folders without pictures:\n  " + "\n  ".join(_shorten([str(f) for f in empty])))
    return rows


def _read_csv(
    path: Path, root: Path, exact: bool = False, is_there: Callable[[str], bool] | None = None
) -> list[tuple[str, str, str]]:
    is_there = is_there or (lambda name: os.path.isfile(root / name))  # noqa: PTH113  Path.is_file raises on a long name
    rows, problems = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            missing = [c for c in ("image_path", "label") if c not in names]
            if missing:
                raise DataError(
                    f"{path} needs the columns image_path,label[,split] in its first line; got {','.join(names)}"
                )
            first: dict[str, str] = {}
            for row in reader:
                name, label, split = (row.get(c) or "" for c in ("image_path", "label", "split"))
                if not exact:  # people write spaces after commas; names of files may end in them
                    name, label, split = name.strip(), label.strip(), split.strip()
                place = f"line {reader.line_num}"
                if not name or not label:
                    problems.append(f"{place}: image_path or label is empty")
                elif split and split.lower() not in _ALIASES:
                    problems.append(f"{place}: {unknown('split', split, SPLITS)}")
                elif not is_there(name):
                    problems.append(f"{place}: no file {root / name}")
                elif first.setdefault(os.path.normpath(root / name), place) != place:
                    problems.append(f"{place}: {name} was listed before, in {first[os.path.normpath(root / name)]}")
                rows.append((name, label, _ALIASES.get(split.lower(), "")))
    except (csv.Error, OSError) as error:
        raise DataError(f"{path} is no readable CSV: {error}") from error
    if problems:
        raise DataError(f"{path} has problems:\n  " + "\n  ".join(_shorten(problems)))
    return rows


def _shorten(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return problems if more <= 0 else [*problems[:_SHOWN], f"… and {more} more"]


def _endings() -> str:
    return " ".join(sorted(SUFFIXES))
