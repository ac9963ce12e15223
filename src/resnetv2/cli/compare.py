"""``resnetv2 compare``."""

from __future__ import annotations

import argparse
from typing import Any

from resnetv2.cli.placement import add_placement
from resnetv2.cli.unreadable import add_policy, tell_skipped

_SHOWN = 20  # pictures that get different answers; --json has all of them


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "compare",
        help="tell whether one of two models is better",
        description="Ask two models about the same pictures and tell whether they differ by more than chance: the "
        "differences with 95 % intervals, McNemar's exact test, and the pictures that get different answers.",
    )
    parser.add_argument("first", metavar="A", help="model file, or folder of a run")
    parser.add_argument("second", metavar="B", help="model file, or folder of a run")
    parser.add_argument(
        "--data", required=True, metavar="DATA", help="folder of pictures, manifest (CSV or Parquet), or packed folder"
    )
    splits = ("train", "val", "test", "all")
    parser.add_argument("--split", choices=splits, default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="B", help="pictures at a time (default: %(default)s)"
    )
    add_placement(parser)
    add_policy(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print the figures, the verdict, and pictures that get different answers."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting, talk

    with counting("comparing") as progress:
        result = resnetv2.compare(
            args.first,
            args.second,
            data=args.data,
            split=args.split,
            batch_size=args.batch_size,
            device=args.device,
            runtime=args.runtime,
            on_bad_image=args.on_bad_image,
            progress=progress,
        )
    tell_skipped(result["skipped"])
    if result["left_out"]:
        talk().print(f"left out: {result['left_out']:,} pictures that are in this split of one model's run alone")
    if args.json:
        print_json(result)
    else:
        _print_result(result)
    return 0


def _print_result(result: dict[str, Any]) -> None:
    from resnetv2.cli.show import print_table
    from resnetv2.evaluation.figures import FIGURES

    words = {key: (name, form) for key, name, form in FIGURES[result["task"]]}
    rows = []
    for key, figure in result["figures"].items():
        name, form = words[key]
        low, high = figure["difference_ci95"]
        signed = form.replace("{:", "{:+").replace("++", "+")
        bounds = f"{signed.format(low)} – {signed.format(high)}"
        values = (form.format(figure[side]) for side in ("first", "second"))
        rows.append((name, *values, signed.format(figure["difference"]), bounds))
    print(f"{result['n']:,} pictures of split {result['split']}")
    print_table(("figure", "A", "B", "B - A", "95 % interval"), rows)
    if "p" in result:
        print(f"right in A alone {result['only_first']:,}, in B alone {result['only_second']:,}, p = {result['p']:.3g}")
    print(result["verdict"])
    differ = result["differ"]
    if differ:
        rows = [(d["path"], d["label"], _words(d["first"]), _words(d["second"])) for d in differ[:_SHOWN]]
        print_table(("picture", "is", "A", "B"), rows)
    if len(differ) > _SHOWN:
        print(f"… and {len(differ) - _SHOWN:,} more; --json has them all")


def _words(answer: Any) -> str:
    if isinstance(answer, dict):
        return f"{answer['label']} {answer['probability']:.1%}"
    return ", ".join(answer) or "none" if isinstance(answer, list) else f"{answer:g}"
