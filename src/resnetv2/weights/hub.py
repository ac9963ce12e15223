"""A file of a Hugging Face repository, through ``huggingface_hub``: its cache, tokens, mirrors and offline mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnetv2.errors import DownloadError
from resnetv2.weights.location import Location
from resnetv2.weights.soundness import fault, is_sound


def fetch_from_hub(location: Location, by_hand: Path, *, timeout: float) -> Path:
    """Return the path of a repository's file in the hub's own cache.

    A file there that is not the one stated is said and fetched anew; one whose digest is right costs no request.

    Args:
        location: ``repo``, ``revision`` and ``filename``.
        by_hand: Where a person without a connection may put the file, named in errors.
        timeout: Seconds to wait for the hub's answer.

    Raises:
        DownloadError: no such repository, revision or file; no access; no connection; not the file stated.
    """
    import huggingface_hub
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that the hub uses

    file: dict[str, Any] = {
        "repo_id": location.repo,
        "filename": location.filename,
        "revision": location.revision or "main",
    }
    try:
        cached = huggingface_hub.try_to_load_from_cache(**file)
        damaged = isinstance(cached, str) and not is_sound(Path(cached), location)
        if isinstance(cached, str) and location.digest and not damaged:
            return Path(cached)
        options: dict[str, Any] = {"force_download": damaged, "etag_timeout": timeout, "library_name": "resnetv2"}
        path = Path(huggingface_hub.hf_hub_download(**file, **options))
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: what hf-xet raises
        url = f"{huggingface_hub.constants.ENDPOINT}/{location.repo}/resolve/{file['revision']}/{location.filename}"
        raise DownloadError(f"cannot download {url}: {_reason(error, location, by_hand)}") from error
    if problem := fault(path, location):
        raise DownloadError(f"{path} is not the file that was published: {problem}")
    return path


def _reason(error: Exception, location: Location, by_hand: Path) -> str:
    from huggingface_hub import errors

    login = "log in with `hf auth login` or the variable HF_TOKEN"
    offline = f"{_first_line(error.__cause__ or error)}. Connect, or put the file there by hand: {by_hand}"
    reasons = {  # the first that fits
        errors.GatedRepoError: f"the repository is gated: accept its terms on its page, and {login}",
        errors.RepositoryNotFoundError: f"no such repository, or a private one: check its name, or {login}",
        errors.RevisionNotFoundError: f"the repository has no revision {location.revision!r}",
        errors.RemoteEntryNotFoundError: "the repository has no such file at this revision",
        errors.LocalEntryNotFoundError: offline,
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), _first_line(error))


def _first_line(error: BaseException) -> str:
    return f"{error}".strip().partition("\n")[0].rstrip(".") or type(error).__name__
