"""Every error a user can cause, so that it can be told from a bug.

    ValueError
    └── Error              what was expected, what was received, what to do
        ├── DataError      pictures, folders, manifests
        ├── ModelFileError a model file that cannot be read or trusted
        ├── ConfigError    an architecture or a setting that cannot be
        ├── ConvertError   a published checkpoint that cannot be read, recognised or written
        ├── DownloadError  a file that could not be fetched whole
        └── MissingExtra   a command that needs a package which is not installed
    KeyboardInterrupt
    └── Interrupted        a signal, after the run's state was saved

The command line turns each into one message on stderr and exit code 2. Anything else that escapes is our bug,
exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class Error(ValueError):
    """The user can mend this; the message says how."""


class DataError(Error):
    """Pictures, folders or manifests that cannot be used."""


class ModelFileError(Error):
    """A model file that is truncated, corrupt, foreign, newer than this version, or tampered with."""


class ConfigError(Error):
    """An architecture or a training setting that is unknown or out of range."""


class ConvertError(Error):
    """A published checkpoint that is damaged, not recognised, or does not fit its network whole."""


class DownloadError(Error):
    """A file that is not there, not to be reached, or not the one that its publisher stated."""


class MissingExtra(Error):
    """A command whose optional packages are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs packages that are not installed: pip install "resnetv2[{extra}]"')


class Interrupted(KeyboardInterrupt):
    """A signal stopped a run after its state was saved; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


_MOST_NAMED = 20  # choices in one message


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not among ``known``, with the nearest one suggested."""
    known = sorted(known)
    near = nearest(name, known)
    more = f" … ({len(known)} in all)" if len(known) > _MOST_NAMED else ""
    hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(known[:_MOST_NAMED])}{more}"
    return f"unknown {kind} {name!r}: {hint}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name among ``known`` that looks most like this one, None if none looks like it."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return near[0] if near else None
