"""``resnetv2 calibrate``."""

from __future__ import annotations

import argparse
from typing import Any

from resnetv2.cli.placement import add_placement
from resnetv2.cli.unreadable import add_policy, tell_skipped


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "calibrate",
        help="make probabilities mean what they say, and teach a model when not to answer",
        description="Write a model file with the same weights that is calibrated on the validation split: a "
        "temperature for its probabilities, what its training pictures look like to it, and the lowest probability "
        "that keeps an error rate. `predict --abstain` and `evaluate` use them.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, such as RUN/best.safetensors; it is only read")
    parser.add_argument("data", metavar="DATA", help="the pictures that it was trained on, as for evaluate")
    parser.add_argument("--out", required=True, metavar="FILE", help="new model file (.safetensors)")
    parser.add_argument(
        "--error-rate", type=float, metavar="P", help="promise that no more of what is answered is wrong, such as 0.02"
    )
    splits = ("train", "val", "test", "all")
    parser.add_argument(
        "--split", choices=splits, default="val", help="val, and no other is taken (default: %(default)s)"
    )
    add_placement(parser)
    add_policy(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, and print what was found."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting

    options = {"out": args.out, "error_rate": args.error_rate, "split": args.split, "on_bad_image": args.on_bad_image}
    options |= {"device": args.device, "runtime": args.runtime}
    with counting("calibrating") as progress:
        report = resnetv2.calibrate(args.model, args.data, **options, progress=progress)
    tell_skipped(report["skipped"])
    if args.json:
        print_json(report)
    else:
        _print_report(report)
    return 0


def _print_report(report: dict[str, Any]) -> None:
    print(report["out"])
    n, undefined = report["n"], report["undefined"]
    if report["temperature_ci95"] is None:
        print(f"temperature  stays 1: {undefined['temperature']}")
    else:
        low, high = report["temperature_ci95"]
        print(f"temperature  {report['temperature']:.3g} (95 % interval {low:.3g} – {high:.3g})")
    for name, key, form in (("log loss", "log_loss", "{:.4f}"), ("calibration error", "ece", "{:.2%}")):
        before, after = (form.format(report[key][side]) for side in ("before", "after"))
        print(f"{name}  {before} before, {after} after, on these {n:,} pictures")
    print(
        f"unlike the training data  from distance {report['limit']:.3g} on: at most {report['unlike_rate']:.1%} of "
        f"pictures like these, on average; {report['unlike']:,} here"
    )
    if report["threshold"] is None:
        print("not sure  never: no --error-rate was asked for")
        return
    print(
        f"not sure  below {report['threshold']:.1%}: answers {report['answered']:,} of these {n:,}, "
        f"{report['errors']:,} of them wrong; with 95 % certainty at most {report['error_rate_bound']:.2%} are"
    )
