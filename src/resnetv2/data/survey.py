"""What lies in a folder of pictures beside pictures in classes: what training passes over in silence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnetv2.preprocess import SUFFIXES


@dataclass
class Survey:
    """Paths relative to the folder, in the order of their names."""

    strays: list[str] = field(default_factory=list)  # pictures in no class
    links: list[str] = field(default_factory=list)  # to folders that are not followed
    loops: list[str] = field(default_factory=list)  # to a folder that the link lies in
    outside: list[str] = field(default_factory=list)  # pictures and classes that lie elsewhere


def survey_folder(root: Path, used: set[str]) -> Survey:
    """Look through a folder as training does, and at what it leaves out.

    Args:
        root: the folder.
        used: the pictures in classes, relative to it.
    """
    found, real = Survey(), os.path.realpath(root)
    followed: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in used}:
        while folder and folder not in followed:
            followed.add(folder)
            folder = folder.rpartition("/")[0]  # noqa: PLW2901  and what it lies in
    start = len(os.path.join(root, ""))  # noqa: PTH118  text all along: ten times as fast for a million files
    for entry in _entries(os.fspath(root)):
        name = entry.path[start:].replace(os.sep, "/")
        leads_on, picture = _is_folder(entry), os.path.splitext(entry.name)[1].lower() in SUFFIXES  # noqa: PTH122
        if picture and not leads_on and name not in used:
            found.strays.append(name)
        if not entry.is_symlink():
            continue
        target = os.path.realpath(entry.path)
        if leads_on and _is_below(os.path.realpath(Path(entry.path).parent), target):
            found.loops.append(name)
        elif leads_on and name not in followed:
            found.links.append(name)
        elif (leads_on or picture) and not _is_below(target, real):
            found.outside.append(name)
    return found


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # said where pictures are looked for
    for entry in entries:
        if entry.name.startswith("."):
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))  # noqa: PTH118  text, as realpath gives it
