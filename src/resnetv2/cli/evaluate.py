"""``resnetv2 evaluate``."""

from __future__ import annotations

import argparse
from typing import Any

from resnetv2.cli.placement import add_placement


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on labelled pictures",
        description="Measure a model on one split; every picture counts once. Classes are matched by name.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file or artefact, such as RUN/best.safetensors")
    parser.add_argument(
        "data", metavar="DATA", help="folder of pictures, CSV manifest, or packed folder; it is only read"
    )
    splits = ("train", "val", "test", "all")
    parser.add_argument("--split", choices=splits, default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="B", help="pictures at a time (default: %(default)s)"
    )
    add_placement(parser)
    parser.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="unreadable pictures: refuse, or leave out (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting, printable, talk

    options = {"split": args.split, "batch_size": args.batch_size, "device": args.device, "runtime": args.runtime}
    options["on_bad_image"] = args.on_bad_image
    with counting("evaluating") as progress:
        report = resnetv2.evaluate(args.model, args.data, **options, progress=progress)
    for skipped in report["skipped"]:
        talk().print(f"left out: {printable(skipped['path'])}: {skipped['reason']}", soft_wrap=True)
    if args.json:
        print_json(report)
    else:
        _print_report(report)
    return 0


def _print_report(report: dict[str, Any]) -> None:
    {"classification": _print_classes, "multilabel": _print_labels, "regression": _print_errors}[report["task"]](report)


def _print_classes(report: dict[str, Any]) -> None:
    from resnetv2.cli.show import print_table

    print(_headline("top-1", report, "top1", "{:.2%}"))
    if report["top5"] is not None:
        print(f"top-5  {report['top5']:.2%}")
    names = [entry["label"] for entry in report["per_class"]]
    rows = []
    for i, entry in enumerate(report["per_class"]):
        row = report["confusion"][i] if report["confusion"] else ()
        mistakes = sorted(((n, names[j]) for j, n in enumerate(row) if n and j != i), reverse=True)
        taken_for = ", ".join(f"{name} ({n}×)" for n, name in mistakes[:5])
        rows.append((entry["label"], f"{entry['n']:,}", _share(entry["recall"]), taken_for))
    print_table(("class", "n", "recall", "taken for"), rows)


def _print_labels(report: dict[str, Any]) -> None:
    from resnetv2.cli.show import print_table

    print(_headline("mean average precision", report, "map", "{:.2%}"))
    print(_headline("all labels right", report, "exact_match", "{:.2%}"))
    figures = ("average_precision", "precision", "recall", "f1")
    rows = [(e["label"], f"{e['n']:,}", *(_share(e[name]) for name in figures)) for e in report["per_class"]]
    print_table(("class", "n", *(name.replace("_", " ") for name in figures)), rows)


def _print_errors(report: dict[str, Any]) -> None:
    for name, key in (("mean absolute error", "mae"), ("root mean squared error", "rmse"), ("R²", "r2")):
        print(_headline(name, report, key, "{:.4g}"))


def _headline(name: str, report: dict[str, Any], key: str, form: str) -> str:
    """Return a figure with its interval, or why there is none."""
    value, interval, why = report[key], report[f"{key}_ci95"], report["undefined"]
    if value is None:
        return f"{name}  –  ({why.get(key)})"
    low_high = " – ".join(map(form.format, interval)) if interval else f"none: {why.get(f'{key}_ci95')}"
    return f"{name}  {form.format(value)}  (95 % interval {low_high}, n = {report['n']:,}, split {report['split']})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
