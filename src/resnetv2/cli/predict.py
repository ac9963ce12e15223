"""``resnetv2 predict``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from resnetv2.cli.placement import add_placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnetv2.inference import Prediction


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "predict",
        help="label pictures",
        description="Label pictures and folders of pictures. One that cannot be read gets its error, the others are "
        "still answered, and the exit code is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file or artefact, such as RUN/best.safetensors")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER", help="picture files, or folders of them")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="labels for each picture (default: %(default)s)"
    )
    add_placement(parser)
    parser.add_argument(
        "--abstain",
        action="store_true",
        help="let a calibrated model say that it does not know: it is not sure, or has seen nothing like it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, a picture each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict and print; exit code 2 if a picture could not be read."""
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting
    from resnetv2.inference import predict_each

    failed = False
    rows = []
    options = {"top": args.top, "device": args.device, "runtime": args.runtime, "abstain": args.abstain}
    try:
        with counting("predicting") as progress:
            for answer in predict_each(args.model, args.pictures, **options, progress=progress):
                failed = failed or answer.error is not None
                if args.json:
                    print_json(answer.to_dict())
                else:
                    rows.append((answer.path, *_cells(answer)))
    finally:  # what was answered before Ctrl-C, or before what ended it
        _print(rows)
    return 2 if failed else 0


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the table of what was answered; rows of errors are shorter than others."""
    from resnetv2.cli.show import print_table

    if not rows:
        return
    width = max(map(len, rows))
    heads = {2: ("picture", "answer"), 3: ("picture", "labels", "probabilities")}
    print_table(
        heads.get(width, ("picture", "label", "probability", "then")), [(*r, *[""] * (width - len(r))) for r in rows]
    )


def _cells(answer: Prediction) -> tuple[str, ...]:
    """Return an answer in as many cells as its task needs: one number, labels with all probabilities, or one label."""
    listed = [f"{label} {probability:.1%}" for label, probability in answer.top]
    if answer.error is not None:
        return (f"error: {answer.error}",)
    if answer.value is not None:
        return (f"{answer.value:g}",)
    if answer.labels is not None:
        return ", ".join(answer.labels) or "none", ", ".join(listed)
    if answer.abstains is not None:
        return f"abstains: {answer.abstains}", "", ", ".join(listed)
    return str(answer.label), f"{answer.probability:.1%}", ", ".join(listed[1:])
