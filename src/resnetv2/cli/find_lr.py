"""``resnetv2 find-lr``."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "find-lr",
        help="find a learning rate to train with",
        description="Train a step at each of ever higher learning rates, until the loss runs away, and suggest a peak "
        "rate for train. The network is forgotten; DATA is only read.",
    )
    parser.add_argument("data", metavar="DATA", help="as train takes it")
    parser.add_argument("--weights", metavar="MODEL", help="model file or published weights to start from")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="rates to try (default: %(default)s)")
    parser.add_argument("--low", type=float, default=1e-5, metavar="LR", help="the first (default: %(default)s)")
    parser.add_argument("--high", type=float, default=10.0, metavar="LR", help="the last (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="write the curve as .png or .svg")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of train; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scan the rates and print the suggestion."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting
    from resnetv2.recipes import parse_settings

    with counting("trying rates") as progress:
        test = resnetv2.find_lr(
            args.data,
            weights=args.weights,
            set=parse_settings(args.set),
            low=args.low,
            high=args.high,
            steps=args.steps,
            plot=args.plot,
            progress=progress,
        )
    if args.json:
        print_json(test.to_dict())
    else:
        print(
            f"no suggestion: {test.reason}" if test.suggested is None else f"--lr {test.suggested:g}  ({test.reason})"
        )
    return 0
