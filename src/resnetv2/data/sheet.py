"""The page that shows a check: one HTML file with everything in it, which runs nothing and fetches nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from resnetv2.data.check import KINDS, SEVERITIES, Finding, Report
from resnetv2.data.index import Index
from resnetv2.data.splits import SPLITS
from resnetv2.data.thumbnails import open_shown, thumbnail
from resnetv2.pages.render import render_page
from resnetv2.preprocess import Readable

PICTURES = 24  # of a finding; the rest are counted
NAMES = 12  # of what has no picture to show; the rest are counted
CLASSES = 60  # in the table


def write_sheet(path: Path, report: Report, index: Index) -> None:
    """Write a report as a page.

    Args:
        path: the HTML file.
        report: what to show.
        index: of the pictures, which are only read.

    Raises:
        MissingExtra: jinja2 is not installed.
        Error: the file cannot be written.
    """
    opener = index.opener()
    render_page(
        path,
        "resnetv2.data/sheet.html.j2",
        report=report,
        splits=[s for s in SPLITS if any(counts[s] for counts in report.classes.values())],
        largest=max((sum(counts.values()) for counts in report.classes.values()), default=0) or 1,
        severities={s: sum(f.severity == s for f in report.findings) for s in SEVERITIES},
        sections=(_section(finding, opener) for finding in report.findings),  # one finding's thumbnails at a time
        kinds=KINDS,
        overview=(_overview_line(finding) for finding in report.findings),
        names=CLASSES,
    )


def _overview_line(finding: Finding) -> dict[str, Any]:
    """Return what the overview says of a finding."""
    kind = KINDS[finding.kind]
    counts = {"count": len(finding.items), "groups": finding.groups}
    return {"kind": finding.kind, "severity": finding.severity, "what": kind.what, "advice": kind.advice, **counts}


def _section(finding: Finding, opener: Callable[[str], Readable]) -> dict[str, Any]:
    pictorial = finding.kind not in ("unreadable", "loop", "link") and all(item.path for item in finding.items)
    shown = list(finding.items[: PICTURES if pictorial else NAMES])
    whole = [list(members) for _, members in groupby(shown, key=lambda item: item.group)]
    if len(whole) > 1 and len(shown) < len(finding.items) and shown[-1].group == finding.items[len(shown)].group != 0:
        shown = shown[: -len(whole.pop())]  # half a group tells half the story
    return {
        "finding": finding,
        "groups": [
            [(item, thumbnail(open_shown(opener(item.path))) if pictorial else None) for item in members]
            for members in whole
        ],
        "rest": len(finding.items) - len(shown),
        "pictorial": pictorial,
    }
