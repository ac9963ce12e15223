"""``resnetv2 models``."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "models",
        help="list the architectures",
        description="List the architectures that train --arch and create_model take. Torch is not needed.",
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, such as '*50*'")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the names with their depth and size; that none matches is an error."""
    import resnetv2
    from resnetv2.cli.show import print_json, print_table
    from resnetv2.config import DIALECTS, architecture
    from resnetv2.errors import ConfigError
    from resnetv2.shapes import count_parameters

    names = resnetv2.list_models(args.pattern)
    if not names:
        raise ConfigError(f"no architecture matches {args.pattern!r}")
    configs = {name: architecture(name) for name in names}
    if args.json:
        print_json([{"name": n, "parameters": count_parameters(c), **c.to_dict()} for n, c in configs.items()])
        return 0
    rows = [
        (name, c.block, "·".join(map(str, c.depths)), f"{count_parameters(c):,}", str(c.num_features), c.stem)
        for name, c in configs.items()
    ]
    print_table(("architecture", "unit", "units", "parameters", "features", "stem"), rows)
    print(f"dialects of each: {', '.join(DIALECTS)}")
    return 0
