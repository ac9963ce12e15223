"""What becomes of pictures that cannot be read: the option of commands that ask a model, and what they say of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add ``--on-bad-image``."""
    parser.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="unreadable pictures: refuse, or leave out (default: %(default)s)",
    )


def tell_skipped(skipped: Iterable[Mapping[str, str]]) -> None:
    """Say which pictures were left out, and why."""
    from resnetv2.console import printable, talk

    for picture in skipped:
        talk().print(f"left out: {printable(picture['path'])}: {picture['reason']}", soft_wrap=True)
