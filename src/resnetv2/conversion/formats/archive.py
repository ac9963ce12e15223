"""Archives in which checkpoints are published, .tar, .tar.gz and .zip: unpacked with suspicion."""

from __future__ import annotations

import gzip
import stat
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from zipfile import ZipFile, ZipInfo

from resnetv2.conversion.formats import budget
from resnetv2.errors import ConvertError

GZIP = b"\x1f\x8b"
TAR, TAR_PLACE = b"ustar", 257
_MAX_MEMBERS = 1_000
_HEADERS = 1 << 20  # bytes that stand between the contents of two members, at most
_CHUNK = 1 << 20


def unpack_tar(path: Path, folder: Path) -> None:
    """Write the files of a .tar or .tar.gz into an empty folder.

    Raises:
        ConvertError: links, devices, places outside of the folder, too many members or bytes. What was written so far
            stays there.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP
    with gzip.open(path) if packed else path.open("rb") as stream:
        source = _Metered(cast("IO[bytes]", stream))
        target = _Folder(folder)
        with tarfile.open(fileobj=cast("Any", source), mode="r|") as archive:
            while (member := archive.next()) is not None:
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise ConvertError(f"{member.name[:80]!r} is a link or a device; only plain files are unpacked")
                source.allow(member.size)
                content = archive.extractfile(member)
                if content is not None:
                    target.write(member.name, member.size, content)
        while source.read(_CHUNK):  # to the end, where gzip has its checksum
            pass


def unpack_zip(path: Path, folder: Path) -> None:
    """Write the files of a .zip into an empty folder, as ``unpack_tar`` does."""
    target = _Folder(folder)
    with ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                if not _is_plain(member):
                    raise ConvertError(f"{member.filename[:80]!r} is a link or a device; only plain files are unpacked")
                with archive.open(member) as content:
                    target.write(member.filename, member.file_size, content)


def _is_plain(member: ZipInfo) -> bool:
    return stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)  # 0: written where there are no such modes


class _Folder:
    """Where members are written, each once, below it, and within limits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = 0
        self.names: set[str] = set()

    def write(self, name: str, size: int, content: IO[bytes]) -> None:
        """Write a member whose header claims ``size`` bytes, and count."""
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or not place.parts or any(c in name for c in "\\:\0"):
            raise ConvertError(f"{name[:80]!r} lies outside of the archive")
        self.bytes += size
        self.names.add(str(place).casefold())
        if self.bytes > budget.MAX_BYTES or len(self.names) > _MAX_MEMBERS:
            raise ConvertError(f"the archive claims more than {budget.MAX_BYTES >> 30} GiB or {_MAX_MEMBERS:,} files")
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:  # x: a name that is there twice is damage
            while chunk := content.read(min(_CHUNK, size + 1)):
                size -= len(chunk)
                if size < 0:
                    raise ConvertError(f"{name[:80]!r} is longer than the archive says")
                file.write(chunk)
        if size:
            raise ConvertError(f"{name[:80]!r} is shorter than the archive says")


class _Metered:
    """A stream that ends in an error where headers go on for too long: gzip makes a thousand bytes out of one."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.left = _HEADERS

    def allow(self, size: int) -> None:
        """Let the content of a member through, and the headers up to the next one."""
        self.left = size + _HEADERS

    def read(self, size: int) -> bytes:
        data = self.raw.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ConvertError(f"more than {_HEADERS:,} bytes of the archive belong to no file")
        return data
