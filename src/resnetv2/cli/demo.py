"""``resnetv2 demo``."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "demo",
        help="train, evaluate, predict and verify on real handwritten digits, in minutes",
        description="Write the UCI handwritten digits (1,797 real scans) as a folder of pictures, then train a "
        "ResNet50-v2 on them from scratch, evaluate it, label pictures with it and verify its file. Every command is "
        "printed as one would type it.",
    )
    parser.add_argument("--out", default="resnetv2-demo", metavar="DIR", help="folder to write (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; its exit code is the first one that is not 0."""
    import resnetv2

    return resnetv2.demo(out=args.out)
