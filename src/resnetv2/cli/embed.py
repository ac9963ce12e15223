"""``resnetv2 embed``."""

from __future__ import annotations

import argparse

from resnetv2.cli.placement import add_placement


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "embed",
        help="write what a network makes of pictures: features for search, clusters and other models",
        description="Write the features of pictures and folders of pictures into a table, a row for each, in order, "
        "or into an index. "
        "One that cannot be read has its error in its row, the others their features, and the exit code is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file or artefact, such as RUN/best.safetensors")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER", help="picture files, or folders of them")
    parser.add_argument("--out", required=True, metavar="FILE", help="new file: .parquet, .npz, or .index to search in")
    parser.add_argument(
        "--layer",
        default="pooled",
        metavar="L",
        help="pooled, or stage1, stage2 … for the mean over a map's places (default: %(default)s)",
    )
    parser.add_argument("--normalize", action="store_true", help="scale every row to length 1")
    add_placement(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed, and print the file and the pictures that could not be read; exit code 2 if there are any."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting, printable

    names = ("out", "layer", "normalize", "device", "runtime")
    with counting("embedding") as progress:
        result = resnetv2.embed(
            args.model, args.pictures, **{name: getattr(args, name) for name in names}, progress=progress
        )
    if args.json:
        print_json(result.to_dict())
    else:
        print(f"{result.out}: {result.pictures} picture{'s'[: result.pictures != 1]}, {result.width} features each")
        for one in result.unreadable:
            print(printable(f"{one.path}: error: {one.error}"))
    return 2 if result.unreadable else 0
