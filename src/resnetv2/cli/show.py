"""Tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from resnetv2.console import printable


def print_json(value: Any) -> None:
    """Print one JSON value, whole on one line; what is no UTF-8 in a path is escaped."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table; columns whose cells look like numbers are aligned right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [[printable(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(row[number][:1].isdigit() or row[number] in ("–", "") for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000  # what reads a pipe has no edge to wrap at; the table takes what it needs
    console.print(table)
