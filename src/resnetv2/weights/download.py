"""Fetch a published file once, whole, and as it was published."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from resnetv2.cache import cache_path, locked
from resnetv2.errors import DownloadError
from resnetv2.files import rename_durably
from resnetv2.weights.hub import fetch_from_hub
from resnetv2.weights.location import Location
from resnetv2.weights.soundness import fault, is_sound
from resnetv2.weights.transfer import discard, length, transfer

_NAME = re.compile(r"[^.\x00-\x1f\x7f\\/:*?\"<>|][^\x00-\x1f\x7f\\/:*?\"<>|]{0,199}")  # on every system, and not hidden


def fetch_file(location: Location, *, timeout: float = 30.0) -> Path:
    """Return the path of a published file on this machine, fetched if it is not here yet.

    A file put by hand at ``file_path(location)`` is taken. Several processes at once fetch it once. Whatever stops a
    download, the next call goes on where it stopped. With ``HF_HUB_OFFLINE=1`` nothing is asked for.

    Args:
        location: Where it is, and its size and digest as far as they are known.
        timeout: Seconds without a byte after which a connection counts as cut.

    Raises:
        DownloadError: it is not there, not to be reached, or not the file that was published.
        Error: the cache cannot be written.
    """
    path = file_path(location)
    if location.repo:
        return path if is_sound(path, location) else fetch_from_hub(location, path, timeout=timeout)
    if fault(path, location):
        with locked(path):
            if not is_sound(path, location):  # another process may have been first
                _fetch_url(location, path, timeout)
    return path


def file_path(location: Location) -> Path:
    """Return the place in the cache where ``fetch_file`` looks first; a file of a repository is there by hand only.

    Raises:
        DownloadError: the location's file name cannot be one here.
    """
    try:
        name = (location.filename or unquote(urlsplit(location.url).path)).rpartition("/")[2]
    except ValueError:  # no address at all
        name = ""
    if not _NAME.fullmatch(name):
        source = location.url or location.repo
        raise DownloadError(f"{source}: no file can have the name {name!r}; say another filename")
    address = location.url or f"{location.repo}@{location.revision}/{location.filename}"
    return cache_path("downloads", hashlib.sha256(address.encode()).hexdigest()[:12], name)


def _fetch_url(location: Location, path: Path, timeout: float) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise DownloadError(
            f"{location.url} is not in the cache, and HF_HUB_OFFLINE is set. A file put there by hand is taken: {path}"
        )
    part = path.with_name(f"{path.name}.part")
    try:
        if not location.size or length(part) != location.size:
            transfer(location.url, part, size=location.size, timeout=timeout)
        _accept(part, location)
        rename_durably(part, path)
        discard(part)
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error
    except DownloadError as error:
        raise DownloadError(f"{error}. A file put there by hand is taken: {path}") from error.__cause__


def _accept(part: Path, location: Location) -> None:
    if problem := fault(part, location):
        discard(part)
        raise DownloadError(f"{location.url} is not the file that was published: {problem}. It was removed")
