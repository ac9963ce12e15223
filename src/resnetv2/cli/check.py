"""``resnetv2 check``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnetv2.data.check import Report

GROUP_BY = (
    "what tells which pictures belong together, such as those of a patient: a column of the manifest, or a regular "
    "expression on the path, of which the first group counts"
)
_SHOWN = 3  # pictures of a finding; --json and --html have more


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "check",
        help="find what is wrong with labelled pictures before training does",
        description="Decode every picture completely and report what would spoil a run: unreadable files, the same "
        "picture in two classes or splits, blank pictures, uneven classes. DATA is only read.",
    )
    parser.add_argument("data", metavar="DATA", help="folder of pictures, or manifest (CSV or Parquet)")
    parser.add_argument("--html", metavar="FILE", help="write a page that shows the pictures")
    parser.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="whether unreadable pictures are an error or, left out, a warning (default: %(default)s)",
    )
    parser.add_argument("--group-by", metavar="COLUMN_OR_REGEX", help=GROUP_BY)
    parser.add_argument("--model", metavar="MODEL", help="model file; with it, labels that look wrong are found, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and print the findings; exit code 2 if one is an error."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting

    with counting("checking pictures") as progress:
        report = resnetv2.check(
            args.data,
            html=args.html,
            on_bad_image=args.on_bad_image,
            group_by=args.group_by,
            model=args.model,
            progress=progress,
        )
    if args.json:
        print_json(report.to_dict())
    else:
        _print_report(report)
    return 0 if report.ok else 2


def _print_report(report: Report) -> None:
    from resnetv2.cli.show import print_table
    from resnetv2.data.check import KINDS, Item

    def name(item: Item) -> str:
        thing = item.path or item.label
        return f"{thing} ({item.note})" if thing and item.note else thing or item.note

    count = len(report.classes)
    among = f"in {count:,} {'class' if count == 1 else 'classes'}"
    among = "with a number each" if report.task == "regression" else among
    print(f"{report.pictures:,} pictures {among}, {report.statistics['readable']:,} readable")
    rows = []
    for finding in report.findings:
        shown = ", ".join(map(name, finding.items[:_SHOWN])) + (" …" if len(finding.items) > _SHOWN else "")
        groups = f"{finding.groups:,}" if finding.groups else ""
        rows.append((finding.severity, KINDS[finding.kind].what, f"{len(finding.items):,}", groups, shown))
    if rows:
        print_table(("", "finding", "n", "groups", "such as"), rows)
    else:
        print("nothing to mend")
