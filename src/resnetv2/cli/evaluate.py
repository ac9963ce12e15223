"""``resnetv2 evaluate``."""

from __future__ import annotations

import argparse
from typing import Any

from resnetv2.cli.placement import add_placement
from resnetv2.cli.unreadable import add_policy, tell_skipped


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on labelled pictures",
        description="Measure a model on one split; every picture counts once. Classes are matched by name.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file or artefact, such as RUN/best.safetensors")
    parser.add_argument(
        "data", metavar="DATA", help="folder of pictures, manifest (CSV or Parquet), or packed folder; it is only read"
    )
    splits = ("train", "val", "test", "all")
    parser.add_argument("--split", choices=splits, default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="B", help="pictures at a time (default: %(default)s)"
    )
    add_placement(parser)
    add_policy(parser)
    parser.add_argument(
        "--tta", choices=("flip", "five-crop"), help="average over views of each picture: mirrored, or the corners"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with figures, charts and the worst mistakes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting

    options = {"split": args.split, "batch_size": args.batch_size, "device": args.device, "runtime": args.runtime}
    options |= {"on_bad_image": args.on_bad_image, "tta": args.tta, "html": args.html}
    with counting("evaluating") as progress:
        report = resnetv2.evaluate(args.model, args.data, **options, progress=progress)
    tell_skipped(report["skipped"])
    if args.json:
        print_json(report)
    else:
        _print_report(report)
    return 0


def _print_report(report: dict[str, Any]) -> None:
    {"classification": _print_classes, "multilabel": _print_labels, "regression": _print_headline}[report["task"]](
        report
    )


def _print_classes(report: dict[str, Any]) -> None:
    from resnetv2.cli.show import print_table

    _print_headline(report)
    print(report["note"])
    if report["abstention"]:
        print(report["abstention"]["note"])
    names = [entry["label"] for entry in report["per_class"]]
    rows = []
    for i, entry in enumerate(report["per_class"]):
        row = report["confusion"][i] if report["confusion"] else ()
        mistakes = sorted(((n, names[j]) for j, n in enumerate(row) if n and j != i), reverse=True)
        taken_for = ", ".join(f"{name} ({n}×)" for n, name in mistakes[:5])
        shares = (_share(entry[name]) for name in ("precision", "recall", "f1"))
        rows.append((entry["label"], f"{entry['n']:,}", *shares, taken_for))
    print_table(("class", "n", "precision", "recall", "F1", "taken for"), rows)


def _print_labels(report: dict[str, Any]) -> None:
    from resnetv2.cli.show import print_table

    _print_headline(report)
    figures = ("average_precision", "precision", "recall", "f1")
    rows = [(e["label"], f"{e['n']:,}", *(_share(e[name]) for name in figures)) for e in report["per_class"]]
    print_table(("class", "n", *(name.replace("_", " ") for name in figures)), rows)


def _print_headline(report: dict[str, Any]) -> None:
    """Print n, and each headline figure with its interval, or why it lacks one."""
    from resnetv2.cli.show import print_table
    from resnetv2.evaluation.figures import FIGURES, read_figure

    print(f"{report['n']:,} picture{'s' if report['n'] != 1 else ''} of split {report['split']}")
    rows = []
    for key, name, form in FIGURES[report["task"]]:
        (value, interval), why = read_figure(report, key), report["undefined"]
        bounds = " – ".join(map(form.format, interval)) if interval else why.get(f"{key}_ci95", "")
        rows.append((name, "–", why.get(key, "")) if value is None else (name, form.format(value), bounds))
    print_table(("figure", "", "95 % interval"), rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
