"""``resnetv2 fetch``."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "fetch",
        help="download published weights and convert them, for use without a network",
        description="Download published weights, check their hash, convert them into model files and keep them in the "
        "user's cache folder (RESNETV2_CACHE). What is there already is not fetched again.",
        epilog="resnetv2 models lists the names. Hugging Face's HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="such as resnet50v2.a1h_in1k, or a shell pattern")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch, and print where the model files are."""
    import resnetv2
    from resnetv2.cli.show import print_json

    paths = resnetv2.fetch(args.names)
    if args.json:
        print_json([str(path) for path in paths])
    else:
        print("\n".join(map(str, paths)))
    return 0
