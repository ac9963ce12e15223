"""Talk to the person at the terminal: on stderr, live only where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

Counter = Callable[[int, int], None]  # called with what is done and the total


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
