"""``resnetv2 search``."""

from __future__ import annotations

import argparse

from resnetv2.cli.placement import add_placement


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "search",
        help="find pictures that look alike",
        description="Find the pictures of an index that are most similar to a picture. Only the model that made the "
        "index is taken.",
    )
    parser.add_argument("index", metavar="INDEX", help="what resnetv2 embed --out NAME.index wrote")
    parser.add_argument("picture", metavar="PICTURE", help="picture file; it need not be in the index")
    parser.add_argument("--model", metavar="MODEL", help="where the index's model is now (default: where it was)")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many to find (default: %(default)s)")
    parser.add_argument("--html", metavar="FILE", help="write a page with the pictures found")
    add_placement(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, a picture each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search and print what was found."""
    import resnetv2
    from resnetv2.cli.show import print_json, print_table

    names = ("model", "top", "html", "device", "runtime")
    matches = resnetv2.search(args.index, args.picture, **{name: getattr(args, name) for name in names})
    if args.json:
        for match in matches:
            print_json(match.to_dict())
        return 0
    print_table(("similarity", "picture"), [(f"{match.similarity:.3f}", match.path) for match in matches])
    return 0
