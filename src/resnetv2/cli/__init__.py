"""The command line: parse, call one public function, print. Results go to stdout, everything else to stderr.

Nothing here imports torch, NumPy or Pillow before a command needs them.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

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
from resnetv2.console import Talk, drop
from resnetv2.errors import ConfigError, Error, Interrupted

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = (  # in the order in which a newcomer meets them
    *(demo, check, find_lr, train, evaluate, compare, calibrate, predict, explain, embed, search, export, verify),
    *(info, models, fetch, convert, pack),
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # on what the shell sends stdout to
_LONGEST = 8_000  # characters of a message
EPILOG = "exit codes: 0 done, 1 a bug of resnetv2, 2 something to mend (said on stderr), 130 or 143 stopped by a signal"


def main(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    _prepare_streams()
    command, code = "resnetv2", 0
    try:
        try:
            args, unknown = make_parser().parse_known_args(words)
            command = f"resnetv2 {args.command}"
            if unknown:  # argparse itself would name the help of all commands
                raise ConfigError(f"unrecognized arguments: {' '.join(unknown)} (see {command} --help)")
            _refuse_empty(args)
            code = args.run(args)
        except Error as error:
            print(f"{command}: error: {_spell(error)}", file=sys.stderr)
            code = 2
        finally:
            sys.stdout.flush()  # also what --help printed
    except Interrupted as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        drop(sys.stdout)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        drop(sys.stdout)
        print(f"{command}: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    return code


def _prepare_streams() -> None:
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123  None is one that the shell closed
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack what a class is called
    if not isinstance(sys.stderr, Talk):
        sys.stderr = cast("TextIO", Talk(sys.stderr))


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

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print, without argparse's silence where that fails."""
        (file or sys.stderr).write(message)
