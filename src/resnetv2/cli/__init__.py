"""The command line: parse, call one public function, print. Results go to stdout, everything else to stderr.

Nothing here imports torch, NumPy or Pillow before a command needs them.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from resnetv2 import __version__
from resnetv2.cli import (
    calibrate,
    check,
    compare,
    convert,
    demo,
    embed,
    evaluate,
    explain,
    export,
    fetch,
    find_lr,
    info,
    models,
    pack,
    predict,
    search,
    train,
    verify,
)
from resnetv2.errors import ConfigError, Error, Interrupted

COMMANDS = (  # in the order in which a newcomer meets them
    *(demo, check, find_lr, train, evaluate, compare, calibrate, predict, explain, embed, search, export, verify),
    *(info, models, fetch, convert, pack),
)
_LONGEST = 8_000  # characters of a message
EPILOG = "exit codes: 0 done, 1 a bug of resnetv2, 2 something to mend (said on stderr), 130 or 143 stopped by a signal"


def main(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack what a class is called
    args = make_parser().parse_args(words)
    try:
        _refuse_empty(args)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except Error as error:
        print(f"resnetv2 {args.command}: error: {_spell(error)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = _Parser(
        prog="resnetv2",
        description="ResNet50-v2: train on a folder of pictures, evaluate, predict, prove that a model file is whole.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"resnetv2 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def _refuse_empty(args: argparse.Namespace) -> None:
    """Refuse words of no letters, such as a shell's variable that was never set: as a path they are this folder."""
    values = {name: value if isinstance(value, list) else [value] for name, value in vars(args).items()}
    if empty := [name.replace("_", "-") for name, words in values.items() if "" in words]:
        raise ConfigError(f"{', '.join(empty)}: expected a name, got an empty word; is a variable of the shell unset?")


def _spell(error: Error) -> str:
    """Return the message as any terminal takes it: what a file holds may be in it."""
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(error))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors follow the project's form, and whose lines keep a terminal's width within reason."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)
