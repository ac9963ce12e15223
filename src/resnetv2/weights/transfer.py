"""One file over HTTPS, in as many connections as it takes."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from resnetv2 import __version__
from resnetv2.cache import VARIABLE
from resnetv2.console import Counter, downloading
from resnetv2.errors import DownloadError

MAX_BYTES = 16 << 30  # four times the largest published network, BiT's R152x4
_PAUSES = (1.0, 2.0, 4.0)  # seconds between tries; all of them again whenever more of the file has arrived
_PASSING = frozenset({408, 416, 429, 500, 502, 503, 504})  # 416: after what was kept has been discarded
_CHUNK = 1 << 20


def transfer(url: str, part: Path, *, size: int = 0, timeout: float) -> None:
    """Write what ``url`` serves to ``part``, from where an earlier try stopped if the file is still the same.

    Proxies are the environment's. What arrived stays in ``part`` whatever ends this, a signal too.

    Args:
        url: https, or http of this machine.
        part: The file that grows; beside it a small one says which version of the server's file it holds.
        size: Bytes expected, 0 if unknown.
        timeout: Seconds without a byte after which a connection counts as cut.

    Raises:
        DownloadError: the server refuses, is not to be reached, or has a file of another size; or the disk is full.
    """
    _check_address(url)
    most, pauses = length(part), list(_PAUSES)
    with downloading(part.stem) as show:
        while reason := _try(url, part, size, timeout, show):
            if length(part) > most:
                most, pauses = length(part), list(_PAUSES)
            if not pauses:
                kept = f"; {length(part):,} bytes of it are kept for the next time" if length(part) else ""
                raise DownloadError(f"cannot download {url}: {reason}{kept}")
            time.sleep(pauses.pop(0))


def discard(part: Path) -> None:
    """Remove what ``transfer`` wrote."""
    for path in (part, _version_file(part)):
        path.unlink(missing_ok=True)


def length(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _try(url: str, part: Path, size: int, timeout: float, show: Counter) -> str:
    """Return what broke, or "" when the file is whole."""
    try:
        _receive(url, part, size, timeout, show)
    except HTTPError as error:
        error.close()
        if error.code not in _PASSING:
            raise DownloadError(f"cannot download {url}: the server says {error.code} {error.reason}") from error
        if error.code == 416:
            discard(part)
        return f"the server says {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"cannot download {url}: {reason.verify_message}; SSL_CERT_FILE may name the certificate of a proxy"
            ) from error
        return str(reason) or type(error).__name__
    return ""


def _receive(url: str, part: Path, size: int, timeout: float, show: Counter) -> None:
    request = Request(url, headers={"User-Agent": f"resnetv2/{__version__}", **_resumption(part)})  # noqa: S310  checked
    with build_opener(_Redirects).open(request, timeout=timeout) as response:
        start = _start(response, part)
        with _disk(part):
            if not start:
                discard(part)
                part.touch()
                _version_file(part).write_text(_version(response), encoding="utf-8")
        announced = response.length or 0  # 0: the server does not say
        total = start + announced if announced else size
        _check_room(url, part, total, size)
        for chunk in iter(lambda: response.read1(_CHUNK), b""):
            with _disk(part), part.open("ab") as file:
                file.write(chunk)
            if length(part) > (total or MAX_BYTES):
                discard(part)
                raise DownloadError(f"{url} sends more than the {total or MAX_BYTES:,} bytes expected")
            show(length(part), total)
    if length(part) < total:
        raise ConnectionError(f"the connection was cut after {length(part):,} of {total:,} bytes")


def _resumption(part: Path) -> dict[str, str]:
    """Return the headers that ask for the rest, if the server's file is still the one that ``part`` began."""
    version = _version_file(part).read_text(encoding="utf-8") if _version_file(part).exists() else ""
    return {"Range": f"bytes={length(part)}-", "If-Range": version} if version and length(part) else {}


def _start(response: HTTPResponse, part: Path) -> int:
    """Return the position in the file at which the response begins."""
    if response.status == 200:
        return 0
    begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    kept, sent = _resumption(part).get("If-Range", ""), _version(response)
    same = sent == kept or not (sent or kept.startswith('"'))  # a date need not be repeated, an ETag must
    if response.status != 206 or not begins or int(begins[1]) != length(part) or not same:
        discard(part)
        raise ConnectionError(f"the server sent something else than the rest of the file ({response.status})")
    return length(part)


def _version(response: HTTPResponse) -> str:
    """Return what tells this version of the file from others, byte for byte: a strong ETag, or else its date."""
    tag = " ".join(response.headers.get("ETag", "").split())
    return tag if tag.startswith('"') else " ".join(response.headers.get("Last-Modified", "").split())


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _check_room(url: str, part: Path, total: int, size: int) -> None:
    if (size and total != size) or total > MAX_BYTES:
        raise DownloadError(f"{url} has {total:,} bytes, expected {size or MAX_BYTES:,}{'' if size else ' at most'}")
    free = shutil.disk_usage(part.parent).free
    if total - length(part) > free:
        raise DownloadError(
            f"{url} needs {total - length(part):,} bytes more and {part.parent} has {free:,} left: "
            f"make room, or set {VARIABLE} to another folder"
        )


@contextlib.contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Keep the disk's errors apart from the network's, which are OSError, too, but worth another try."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"cannot write {part}: {error.strerror or error}; make room, or set {VARIABLE} to another folder"
        ) from error


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but never to a connection that others can read or change."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not _is_safe(newurl) or (_is_loopback(newurl) and not _is_loopback(req.full_url)):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str) -> None:
    if not _is_safe(url):
        raise DownloadError(f"an address that begins with https:// is expected, got {url!r}")


def _is_safe(url: str) -> bool:
    try:
        return (urlsplit(url).scheme == "https" and bool(urlsplit(url).hostname)) or _is_loopback(url)
    except ValueError:
        return False


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"
