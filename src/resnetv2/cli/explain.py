"""``resnetv2 explain``."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "explain",
        help="show where in a picture a network sees what it answers",
        description="Write each picture with a heat map over it, and the map's raw numbers. One that cannot be read "
        "gets its error, the others are still explained, and the exit code is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, such as RUN/best.safetensors")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE_OR_FOLDER", help="picture files, or folders of them")
    parser.add_argument("--class", dest="label", metavar="NAME", help="what to look for (default: what is answered)")
    parser.add_argument(
        "--method",
        metavar="M",
        help="gradcam, gradcam++, layercam, occlusion or integrated-gradients (default: gradcam, or "
        "occlusion where the network's last map has fewer than 4 × 4 cells)",
    )
    parser.add_argument(
        "--out", default="explained", metavar="DIR", help="folder for NAME.png and NAME.npy (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, a picture each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain and print the files; exit code 2 if a picture could not be read."""
    from resnetv2.cli.show import print_json
    from resnetv2.console import printable
    from resnetv2.explanation import explain_each

    failed = False
    options = {"label": args.label, "method": args.method, "out": args.out, "device": args.device}
    for answer in explain_each(args.model, args.pictures, **options):
        failed = failed or answer.error is not None
        if args.json:
            line = {"label": answer.label, "overlay": str(answer.overlay), "array": str(answer.array)}
            print_json({"path": answer.path, **(line if answer.error is None else {"error": answer.error})})
        else:
            print(f"{printable(answer.path)}: {printable(answer.error or f'{answer.label}  {answer.overlay}')}")
    return 2 if failed else 0
