"""Talk to the person at the terminal: on stderr, live only where there is a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

Counter = Callable[[int, int], None]  # called with what is done and the total


class Talk:
    """A stream such as stderr on which words may be lost: no answer hangs on them.

    Where they cannot be written, because a disk is full or the reader went away, they and all that follow go nowhere.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except OSError:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        """Write what is not written yet, or drop it."""
        try:
            self._stream.flush()
        except OSError:
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop(stream: TextIO) -> None:
    """Send what is not written yet nowhere: Python would try again when it ends, and fail again."""
    with suppress(OSError):  # one that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def talk() -> Console:
    """Return a console on stderr that prints words as they are."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def counting(what: str) -> Iterator[Counter]:
    """Show a bar while something is counted; the yielded function takes what is done and the total."""
    from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

    with _bar(what, MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()) as count:
        yield count


@contextmanager
def downloading(name: str) -> Iterator[Counter]:
    """Show a bar while a file arrives; the yielded function takes the bytes here and the total, 0 if unknown."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    with _bar(name, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as count:
        yield count


@contextmanager
def _bar(what: str, *columns: ProgressColumn) -> Iterator[Counter]:
    from rich.progress import BarColumn, Progress, TextColumn

    console = talk()
    first = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(*first, *columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def printable(text: str) -> str:
    """Return text that any terminal and page takes: control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
