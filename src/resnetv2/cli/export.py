"""``resnetv2 export``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "export",
        help="write a network for another runtime or library, proved to answer the same",
        description="Write a model file as an artefact for ONNX Runtime, OpenVINO or torch.export, with its header and "
        "golden samples inside, or as a folder that timm or transformers loads. It appears only after it has answered "
        "as the model does, from picture bytes to labels.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file, such as RUN/best.safetensors")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="onnx (.onnx), openvino (.xml) or torch (.pt2); timm or transformers, a folder",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="new file, with the ending of its format, or folder"
    )
    parser.add_argument(
        "--check", metavar="DATA", help="pictures to compare the answers on, too, with labels or without"
    )
    splits = ("train", "val", "test", "all")
    parser.add_argument("--split", choices=splits, default="test", help="of a labelled --check (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and activations; with --calibrate")
    parser.add_argument(
        "--calibrate",
        metavar="DATA",
        help="pictures for --int8, without labels, or with, of which the training split counts; without --check, half "
        "of them check",
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.99,
        metavar="P",
        help="share of --check that int8 must answer as float32 does (default: %(default)s)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.005,
        metavar="P",
        help="what int8 may lose of top-1, where there are labels (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and print the file and what was measured."""
    import resnetv2
    from resnetv2.cli.show import print_json
    from resnetv2.console import counting

    names = ("to", "out", "check", "split", "int8", "calibrate", "min_agreement", "max_drop")
    with counting("comparing") as progress:
        result = resnetv2.export(args.model, **{name: getattr(args, name) for name in names}, progress=progress)
    if args.json:
        print_json({**asdict(result), "out": str(result.out)})
        return 0
    print(result.out)
    _print_report(result.precision, result.report)
    return 0


def _print_report(precision: str, report: Mapping[str, Any]) -> None:
    if precision == "float32":
        for name, found in report.items():
            if name == "distances":
                print(f"distances from the training data: {found['n']} pictures, within {found['worst']:.1e}")
                continue
            print(f"{name}: {found['n']} pictures, the same labels, worst logit {found['worst']:.1e} of the largest")
        return
    rate, size = report["pictures_per_second"], report["bytes"]
    print(f"the answers of float32 on {report['agreement']:.2%} of {report['n']} pictures")
    if top1 := report.get("top1"):
        print(f"top-1  {top1['int8']:.2%}  (float32 {top1['float32']:.2%})")
    print(f"speed  {rate['int8']:.1f} pictures/s  (float32 {rate['float32']:.1f})")
    print(f"size   {size['int8'] / 2**20:.1f} MiB  (float32 {size['float32'] / 2**20:.1f})")
