"""``resnetv2 pack``."""

from __future__ import annotations

import argparse

from resnetv2.cli.check import GROUP_BY


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "pack",
        help="pack pictures into a few large files",
        description="Pack the pictures of DATA into tar files of about --max-size, with labels and splits, which every "
        "command then reads in place of DATA. OUT appears when it is whole.",
    )
    parser.add_argument(
        "data", metavar="DATA", help="folder of pictures, or manifest (CSV or Parquet); it is only read"
    )
    parser.add_argument("out", metavar="OUT", help="new folder for the packed pictures")
    parser.add_argument(
        "--max-size", type=int, default=1000, metavar="MB", help="megabytes of a file (default: %(default)s)"
    )
    parser.add_argument("--group-by", metavar="COLUMN_OR_REGEX", help=f"{GROUP_BY}; OUT keeps that")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pack and print what came of it."""
    import resnetv2
    from resnetv2.console import counting

    with counting("packing") as progress:
        result = resnetv2.pack(args.data, args.out, max_size=args.max_size, group_by=args.group_by, progress=progress)
    print(f"{result.out}: {result.pictures:,} pictures, {result.size / 1e6:,.1f} MB, files: {result.shards:,}")
    return 0
