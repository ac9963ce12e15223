"""What is wrong with labelled pictures, found before training finds it: facts in, findings out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnetv2.console import Counter as Progress
from resnetv2.data.duplicates import BLANK, Group, find_groups
from resnetv2.data.examine import Examined, examine_pictures
from resnetv2.data.index import Index
from resnetv2.data.manifest import shorten
from resnetv2.data.names import is_text
from resnetv2.data.splits import SPLITS
from resnetv2.data.survey import survey_folder
from resnetv2.errors import ConfigError, DataError, unknown

POLICIES = ("error", "skip")
SEVERITIES = ("error", "warning", "note")
TINY = 32  # pixels of the shorter side, below which a network's input is mostly interpolation
NARROW = 4  # times as long as wide: the central square shows little of it
DARK, BRIGHT = 16, 240  # mean grey, of 255
FEW = 10  # training pictures of a class
IMBALANCE = 10  # times as many training pictures in the largest class as in the smallest
_SHOWN = 20  # bad pictures spelled out in an error; the rest are counted
_ENDINGS = {
    "JPEG": {".jpg", ".jpeg", ".jpe"},
    "MPO": {".mpo", ".jpg", ".jpeg", ".jpe"},  # two JPEG pictures in a file, as stereo cameras and phones write
    "TIFF": {".tif", ".tiff"},
    "HEIF": {".heic", ".heif", ".hif"},
}


class Kind(NamedTuple):
    """What a kind of finding means: how bad it is, what was found, and what to do."""

    severity: str
    what: str
    advice: str


KINDS = {
    "unreadable": Kind("error", "cannot be read", "Mend or remove them, or leave them out with --on-bad-image skip."),
    "untrainable": Kind("error", "cannot train a classifier", "Training refuses these pictures as they are."),
    "conflict": Kind("warning", "same picture, different labels", "At most one of the labels is right."),
    "conflict_near": Kind("warning", "nearly the same picture, different labels", "Look whether both labels hold."),
    "leak": Kind("warning", "same picture, different splits", "Figures on val and test flatter: keep one of each."),
    "leak_near": Kind("warning", "nearly the same picture, different splits", "Figures on val and test may flatter."),
    "parted": Kind("warning", "same group, different splits", "Figures on val and test flatter: keep groups whole."),
    "suspect": Kind("warning", "label looks wrong", "A classifier that never saw them disagrees; the worst first."),
    "imbalance": Kind("warning", "classes of very different size", "Read recall by class, not accuracy alone."),
    "few": Kind("warning", f"classes with fewer than {FEW} training pictures", "Add pictures, or merge classes."),
    "unmeasured": Kind("warning", "classes with no val or no test picture", "Nothing will be known about them."),
    "blank": Kind("warning", "nothing to see", "They are of one colour and can only mislead."),
    "stray": Kind("warning", "pictures in no class", "They are not used: put each into a class's folder."),
    "loop": Kind("warning", "links to a folder they lie in", "Remove them: the pictures may count twice."),
    "duplicate": Kind("note", "same picture more than once", "Each counts as often as it is there."),
    "duplicate_near": Kind("note", "nearly the same picture more than once", "Often frames of one film or a copy."),
    "tiny": Kind("note", f"shorter side below {TINY} pixels", "Enlarged, they are mostly interpolation."),
    "narrow": Kind("note", f"more than {NARROW} times as long as wide", "The network sees the central square."),
    "dark": Kind("note", "very dark", "Are they exposed as the others are?"),
    "bright": Kind("note", "very bright", "Are they exposed as the others are?"),
    "ending": Kind("note", "another format than the ending says", "They are read by their content; others may not."),
    "name": Kind("note", "names that are no UTF-8 text", "They work here; many tools refuse them."),
    "link": Kind("note", "links to folders", "They are not followed."),
    "outside": Kind("note", "links out of the folder", "A copy of the folder lacks them."),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, class or link of a finding; those with the same ``group`` above 0 belong together."""

    path: str
    label: str = ""
    split: str = ""
    note: str = ""
    group: int = 0


@dataclass(frozen=True)
class Finding:
    """Everything of one kind: a key of KINDS, how bad it is (of SEVERITIES), and what it is about."""

    kind: str
    severity: str
    items: tuple[Item, ...]

    @property
    def groups(self) -> int:
        """The number of groups; 0 where items stand alone."""
        return max((item.group for item in self.items), default=0)

    def __str__(self) -> str:
        many = f"{self.groups:,} × " if self.groups else ""
        return f"{many}{KINDS[self.kind].what}: {len(self.items):,}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready plain values."""
        kind = KINDS[self.kind]
        items = [{key: value for key, value in asdict(item).items() if value} for item in self.items]
        counts = {"count": len(items), "groups": self.groups}
        words = {"what": kind.what, "advice": kind.advice}
        return {"kind": self.kind, "severity": self.severity, **words, **counts, "items": items}


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        data: the folder or CSV.
        pictures: how many there are, readable or not.
        classes: pictures of each class in each split: {"cat": {"train": 80, "val": 10, "test": 10}}.
        statistics: of the readable pictures: formats, modes, sizes, brightness.
        findings: the worst first.
        task: of TASKS: what the labels are.
    """

    data: str
    pictures: int
    classes: Mapping[str, Mapping[str, int]]
    statistics: Mapping[str, Any]
    findings: tuple[Finding, ...]
    task: str = "classification"

    @property
    def ok(self) -> bool:
        """Whether nothing is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready plain values."""
        findings = [finding.to_dict() for finding in self.findings]
        plain = {"data": self.data, "ok": self.ok, "task": self.task, "pictures": self.pictures}
        plain["classes"] = dict(self.classes)
        return {**plain, "statistics": dict(self.statistics), "findings": findings}


def check_pictures(
    index: Index, data: Path, on_bad_image: str = "error", progress: Progress | None = None
) -> tuple[Index, Examined, Report]:
    """Examine every picture, assign splits that part no copies where they are ours to assign, and check the whole.

    Args:
        index: the pictures.
        data: the folder or CSV that the index was read from.
        on_bad_image: "error" or "skip", by which unreadable pictures are an error or a warning.
        progress: called with the pictures done and the total.

    Returns:
        The index with its final splits and what the files hold, the facts, and the findings.

    Raises:
        ConfigError: another ``on_bad_image``.
    """
    check_policy(on_bad_image)
    examined = examine_pictures(index, progress)
    copies = find_groups(examined.facts, examined.readable)
    final = replace(index.keep_together(copies), contents=examined.contents)
    found = _duplicates(final, copies) | {"parted": _parted(final, index.groups)}
    return final, examined, _report(final, examined, found, data, on_bad_image)


def _report(index: Index, examined: Examined, found: Mapping[str, list[Item]], data: Path, on_bad_image: str) -> Report:
    """Turn what is known about every picture into findings.

    Args:
        index: the pictures.
        examined: what ``examine_pictures`` says of them.
        found: what was found of pictures that belong together.
        data: the folder or CSV that the index was read from.
        on_bad_image: "error" or "skip", by which unreadable pictures are an error or a warning.
    """
    facts, readable = examined.facts, examined.readable
    found = {"unreadable": _items(index, examined.reasons, examined.reasons), **found}
    left = index.without(examined.reasons) if examined.reasons else index
    found["untrainable"] = [Item("", name, "", why) for name, why in left.obstacles()]
    found |= _classes(index)
    found |= _looks(index, facts, readable)
    found["ending"] = _endings(index, facts, readable)
    found["name"] = _items(index, [i for i, path in enumerate(index.paths) if not is_text(path)])
    if data.is_dir():
        survey = survey_folder(index.root, set(index.paths))
        for kind, names in (("stray", survey.strays), ("link", survey.links), ("loop", survey.loops)):
            found[kind] = [Item(name) for name in names]
        found["outside"] = [Item(name) for name in survey.outside]
    table = index.table().tolist()
    return Report(
        data=str(data),
        pictures=len(index.paths),
        classes={name: dict(zip(SPLITS, row, strict=True)) for name, row in zip(index.classes, table, strict=True)},
        statistics=_statistics(facts[readable]),
        findings=order_findings(
            make_finding(kind, items, "warning" if (kind, on_bad_image) == ("unreadable", "skip") else None)
            for kind, items in found.items()
            if items
        ),
        task=index.task,
    )


def make_finding(kind: str, items: Iterable[Item], at_worst: str | None = None) -> Finding:
    """Return a finding of a kind, its severity no worse than ``at_worst``."""
    severity = max(KINDS[kind].severity, at_worst or "error", key=SEVERITIES.index)
    return Finding(kind, severity, tuple(items))


def order_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the worst first."""
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind))))


def check_policy(on_bad_image: str) -> None:
    """Refuse a policy that does not exist.

    Raises:
        ConfigError: naming those that do.
    """
    if on_bad_image not in POLICIES:
        raise ConfigError(unknown("on_bad_image", on_bad_image, POLICIES))


def readable_index(index: Index, reasons: Mapping[int, str], on_bad_image: str, fixed: bool = False) -> Index:
    """Return the index without its unreadable pictures, if that is the policy.

    Args:
        index: the pictures.
        reasons: place -> why the picture there cannot be read.
        on_bad_image: "error" or "skip".
        fixed: whether the list of pictures can no longer change, so that leaving some out is no advice.

    Raises:
        DataError: there are some and the policy is "error", or none is left; they are named with their reasons.
    """
    if not reasons:
        return index
    if on_bad_image == "skip" and len(reasons) < len(index.paths):
        return index.without(reasons)
    bad = [f"{index.place(i)}: {reason}" for i, reason in reasons.items()]
    mend = "" if on_bad_image == "skip" else "\nMend or remove them, or leave them out with --on-bad-image skip"
    mend = "\nBring back those that the run began with, or start a new run" if fixed else mend
    listed = "\n  ".join(shorten(bad, _SHOWN))
    raise DataError(f"{len(bad)} of {len(index.paths)} pictures cannot be read:\n  {listed}{mend}")


def _items(index: Index, places: Iterable[int], notes: Mapping[int, str] | None = None) -> list[Item]:
    return [item_of(index, int(i), (notes or {}).get(int(i), "")) for i in places]


def item_of(index: Index, place: int, note: str = "", group: int = 0) -> Item:
    """Return the item of a picture."""
    return Item(index.paths[place], index.label(place), str(index.splits[place]), note, group)


def _duplicates(index: Index, groups: Sequence[Group]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    counts: Counter[str] = Counter()
    for places, ending in [part for group in groups for part in _parts(group)]:
        differ = len(np.unique(index.labels[places], axis=0)) > 1
        differ &= not ending or index.task != "regression"  # numbers of pictures that are nearly the same may differ
        kinds = [
            *(["conflict"] if differ else []),
            *(["leak"] if len(set(index.splits[places])) > 1 else []),
        ]
        for kind in kinds or ["duplicate"]:
            name = kind + ending
            counts[name] += 1
            found.setdefault(name, []).extend(item_of(index, i, group=counts[name]) for i in places)
    return found


def _parts(group: Group) -> Iterator[tuple[list[int], str]]:
    """Yield what is the same to the pixel, and then, if there is more, all that is nearly the same."""
    for places in group.copies:
        yield list(places), ""
    if not group.exact:
        yield list(group.members), "_near"


def _parted(index: Index, groups: Sequence[str] | None) -> list[Item]:
    """Return the pictures of groups that are in several splits, as only splits that were given can be."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(groups or ()):
        members.setdefault(name, []).append(i)
    parted = {name: places for name, places in members.items() if name and len(set(index.splits[places])) > 1}
    items = enumerate(parted.items(), 1)
    return [item_of(index, i, name, number) for number, (name, places) in items for i in places]


def _classes(index: Index) -> dict[str, list[Item]]:
    table = index.table()
    train, held = table[:, 0], table[:, 1:]
    found: dict[str, list[Item]] = {"few": [], "unmeasured": [], "imbalance": []}
    for name, count, row in zip(index.classes, train.tolist(), held.tolist(), strict=True):
        if count < FEW:
            found["few"].append(Item("", name, "train", _pictures(count)))
        missing = [s for s, n, total in zip(SPLITS[1:], row, held.sum(axis=0), strict=True) if total and not n]
        if missing:
            found["unmeasured"].append(Item("", name, "", f"none in {' and '.join(missing)}"))
    if len(train) and train.max() > IMBALANCE * max(train.min(), 1):
        ends = (int(train.argmax()), int(train.argmin()))
        found["imbalance"] = [Item("", index.classes[i], "train", _pictures(int(train[i]))) for i in ends]
    return found


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _looks(index: Index, facts: np.ndarray, readable: np.ndarray) -> dict[str, list[Item]]:
    width, height = facts["width"].astype(np.int64), facts["height"].astype(np.int64)
    least, most, mean = np.minimum(width, height), np.maximum(width, height), facts["mean"]
    blank = facts["spread"] < BLANK
    chosen = {
        "blank": blank,
        "tiny": least < TINY,
        "narrow": most > NARROW * least,
        "dark": ~blank & (mean < DARK),
        "bright": ~blank & (mean > BRIGHT),
    }
    found = {}
    for kind, mask in chosen.items():
        places = np.flatnonzero(mask & readable).tolist()
        sizes = {i: f"{width[i]}×{height[i]}" for i in places} if kind in ("tiny", "narrow") else {}
        found[kind] = _items(index, places, sizes)
    return found


def _endings(index: Index, facts: np.ndarray, readable: np.ndarray) -> list[Item]:
    found = []
    for i, (path, format_, there) in enumerate(zip(index.paths, facts["format"].tolist(), readable, strict=True)):
        content, ending = format_.decode(), os.path.splitext(path)[1].lower()  # noqa: PTH122  ten times as fast
        if there and ending not in _ENDINGS.get(content, {f".{content.lower()}"}):
            found.append(item_of(index, i, f"holds {content}"))
    return found


def _statistics(facts: np.ndarray) -> dict[str, Any]:
    return {
        "readable": len(facts),
        "formats": _tally(facts["format"]),
        "modes": _tally(facts["mode"]),
        "turned_by_exif": int(facts["turned"].sum()),
        **{name: _quantiles(facts[name]) for name in ("width", "height", "bytes", "mean", "spread")},
    }


def _tally(names: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {values[i].decode(): int(counts[i]) for i in order}


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    least, low, median, high, most = np.quantile(values.astype(np.float64), (0, 0.05, 0.5, 0.95, 1)).round(1).tolist()
    return {"min": least, "p5": low, "median": median, "p95": high, "max": most}
