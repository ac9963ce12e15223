"""Which split a picture belongs to: decided by a hash, so that it stays there, and never parting what belongs together.

What is dealt out are groups of pictures. A picture that nothing binds to others is a group of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resnetv2.data.duplicates import Group, join, leaders_of
from resnetv2.data.names import Names
from resnetv2.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(eq=False)
class _Unit:
    """A group whose split is ours to choose."""

    share: float  # in [0, 1), by its name
    members: list[int]
    classes: frozenset[str]
    split: str


def match_groups(paths: Sequence[str], group_by: str) -> list[str]:
    """Name the group of every picture by a regular expression on its path; "" where nothing matches.

    Args:
        paths: relative to the data.
        group_by: its first group is the name, or all that matches where it has none.

    Raises:
        DataError: it is no regular expression, or matches no path.
    """
    try:
        pattern = re.compile(group_by)
    except (re.error, RecursionError, OverflowError) as error:
        raise DataError(
            f"--group-by {group_by!r} is neither a column of the CSV nor a regular expression: {error}"
        ) from error
    matches = (pattern.search(path) for path in paths)
    groups = [(match[min(pattern.groups, 1)] or "") if match else "" for match in matches]
    if not any(groups):
        raise DataError(
            f"--group-by {group_by!r} is no column of the CSV and matches no path; they look like {paths[0]!r}"
        )
    return groups


def join_groups(paths: Sequence[str], groups: Sequence[str] | None, copies: Sequence[Group]) -> Names:
    """Name what must stay together: pictures of one group or copies of each other, and so on from these to others.

    Args:
        paths: of n pictures.
        groups: n names of groups, "" for a picture in none; None if there are none.
        copies: places of pictures that show the same.

    Returns:
        n names, each the first of the group names, else of the paths, that were joined; "" for a picture alone.
    """
    groups = groups if groups is not None else [""] * len(paths)
    first: dict[str, int] = {}
    places = np.arange(len(paths))
    parents = places.copy()
    join(parents, np.array([first.setdefault(name, i) if name else i for i, name in enumerate(groups)], int), places)
    for group in copies:
        members = np.array(group.members)
        join(parents, members[:1].repeat(len(members)), members)
    leaders = leaders_of(parents, places)
    together = (np.bincount(leaders, minlength=len(parents)) > 1).tolist()
    names: dict[int, tuple[bool, str]] = {}
    for path, own, leader in zip(paths, groups, leaders.tolist(), strict=True):
        if own or together[leader]:
            name = (not own, own or path)
            names[leader] = min(names.get(leader, name), name)
    return Names(names.get(leader, (True, ""))[1] for leader in leaders.tolist())


def assign_splits(
    paths: Sequence[str], labels: Sequence[tuple[str, ...]], splits: Sequence[str], groups: Sequence[str] | None = None
) -> list[str]:
    """Give every picture without a split one by a hash of its group: about 80 % train, 10 % val, 10 % test.

    Pictures that come or go move no other group, save in classes of so few groups that chance left a split empty.
    Splits that were given are kept, and a group that has one gets it whole. "test" gets nothing more where the data has
    test pictures; where every picture has a split but none is "val", about a tenth of "train" becomes it.

    Args:
        paths: of n pictures.
        labels: the classes of each, one or several; every class gets pictures in each split if it can.
        splits: n of SPLITS, or "" where none is given.
        groups: n names of groups, as ``join_groups`` gives them; None where every picture is one of its own.
    """
    given = set(splits)
    if "val" in given and "" not in given:
        return list(splits)
    movable = "" if "" in given else "train"
    order = ("train", "val") if movable == "train" or "test" in given else SPLITS
    out = [split or "train" for split in splits]
    members: dict[str, list[int]] = {}
    fixed: dict[str, str] = {}  # group -> the first of its splits that were given
    names = [""] * len(paths) if groups is None else groups
    for i, (path, split, name) in enumerate(zip(paths, splits, names, strict=True)):
        if split == movable:
            members.setdefault(name or path, []).append(i)
        elif name and movable == "":
            fixed[name] = min(fixed.get(name, split), split, key=SPLITS.index)
    units = []
    for name, places in members.items():
        if name in fixed:
            for i in places:
                out[i] = fixed[name]
        else:
            units.append(_deal(name, places, labels, order))
    _fill_empty_splits(units, order)
    for unit in units:
        for i in unit.members:
            out[i] = unit.split
    return out


def _deal(name: str, members: list[int], labels: Sequence[tuple[str, ...]], order: Sequence[str]) -> _Unit:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    share = int.from_bytes(digest[:6], "big") / 2**48
    tenth = int(10 * share)
    split = order[tenth + 1] if tenth + 1 < len(order) else "train"
    return _Unit(share, members, frozenset(name for i in members for name in labels[i]), split)


def _fill_empty_splits(units: Sequence[_Unit], order: Sequence[str]) -> None:
    """Move groups so that every class has some in each split, "train" first, where it has groups enough.

    The smallest group moves out of the split that has most of them, unless that took another class its last one there.
    """
    by_class: dict[str, list[_Unit]] = {}
    for unit in units:
        for label in unit.classes:
            by_class.setdefault(label, []).append(unit)
    held = {label: Counter(unit.split for unit in some) for label, some in by_class.items()}
    for place, split in enumerate(order):
        for label in sorted(by_class):
            if held[label][split] or len(by_class[label]) <= place:
                continue
            spare = [
                unit
                for unit in by_class[label]
                if place == 0
                or all(held[k][unit.split] > 1 or len(by_class[k]) <= order.index(unit.split) for k in unit.classes)
            ]
            if spare:
                moved = min(spare, key=_preference(held[label], order))
                for k in moved.classes:
                    held[k][moved.split] -= 1
                    held[k][split] += 1
                moved.split = split


def _preference(held: Counter[str], order: Sequence[str]) -> Callable[[_Unit], tuple[int, int, int, float]]:
    return lambda unit: (-held[unit.split], -order.index(unit.split), len(unit.members), unit.share)
