"""``resnetv2 info``."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "info",
        help="print what a model file says of itself",
        description="Print a model file's header. No weight is read, and torch is not needed.",
    )
    parser.add_argument("model", metavar="FILE", help="model file or artefact")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the header."""
    import resnetv2
    from resnetv2.cli.show import print_json

    header = resnetv2.info(args.model)
    if args.json:
        print_json(header)
        return 0
    for section, value in header.items():
        if isinstance(value, dict):
            print(section)
            _print_fields(value)
        elif isinstance(value, list):
            print(f"{section}  {len(value)}: {', '.join(map(str, value[:20]))}{' …' if len(value) > 20 else ''}")
        else:
            print(f"{section}  {value}")
    return 0


def _print_fields(values: dict[str, Any], indent: str = "  ") -> None:
    width = max(map(len, values), default=0)
    for key, value in values.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}")
            _print_fields(value, indent + "  ")
        else:
            print(f"{indent}{key:<{width}}  {value if isinstance(value, str) else json.dumps(value)}")
