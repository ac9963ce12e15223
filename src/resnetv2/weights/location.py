"""Where a publisher keeps a file, and how to tell that it arrived whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from resnetv2.errors import ConfigError
from resnetv2.plain import Plain

_DIGEST = re.compile(r"(sha256|sha1|md5):[0-9a-f]{8,64}")


@dataclass(frozen=True, kw_only=True)
class Location(Plain):
    """A file of a Hugging Face repository or of an HTTPS server.

    Raises:
        ConfigError: neither or both of ``repo`` and ``url``, or a field that cannot be; all problems at once.
    """

    noun = "part of a location"

    repo: str = ""  # Hugging Face repository: "timm/resnetv2_50.a1h_in1k"
    revision: str = ""  # its commit or tag; "" is main
    url: str = ""  # https://…
    filename: str = ""  # in the repository; of a url, "" is its last part
    digest: str = ""  # "sha256:…", "sha1:…" or "md5:…", at least the first 8 hex digits; "" where none is stated
    size: int = 0  # bytes; 0 where none is stated

    def __post_init__(self) -> None:
        problems = list(self._mistyped()) or list(self._problems())
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if bool(self.repo) == bool(self.url):
            yield f"a location has a repo or a url, got {self.repo!r} and {self.url!r}"
        if self.repo and not self.filename:
            yield f"the repository {self.repo} needs a filename"
        if self.revision and not self.repo:
            yield f"a revision is a repository's, got {self.revision!r} without one"
        if self.digest and not _DIGEST.fullmatch(self.digest):
            yield f"digest must be sha256:, sha1: or md5: and at least 8 lower-case hex digits, got {self.digest!r}"
        if self.size < 0:
            yield f"size must be a number of bytes, or 0 where it is not known, got {self.size}"
