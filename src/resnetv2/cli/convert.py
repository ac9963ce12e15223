"""``resnetv2 convert``."""

from __future__ import annotations

import argparse
from dataclasses import asdict


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "convert",
        help="turn a published checkpoint into a model file, or write a publisher's own format",
        description="Read a published ResNet-v2 checkpoint (Keras, KerasHub, TF-Slim, TensorFlow official, timm, BiT, "
        "Hugging Face, MXNet, ONNX Model Zoo, pytorchcv) or a model file, whole or not at all, and write it as a model "
        "file or in a publisher's own format.",
        epilog="docs/convert.md tells the sources, the formats and the two variants of Keras's and TF-Slim's weights.",
    )
    parser.add_argument("file", metavar="FILE", help="checkpoint file or folder; it is only read")
    parser.add_argument("--out", required=True, metavar="FILE", help="new file, with the ending of its format")
    parser.add_argument(
        "--from",
        dest="source",
        default="auto",
        metavar="SOURCE",
        help="whose it is: auto recognises it by names and shapes (default: %(default)s)",
    )
    parser.add_argument(
        "--to", default="model", metavar="FORMAT", help="model, timm, keras, huggingface … (default: %(default)s)"
    )
    parser.add_argument(
        "--variant",
        default="as-shipped",
        metavar="V",
        help="as-shipped, or as-trained for Keras Applications and TF-Slim (default: %(default)s)",
    )
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--drop-head", action="store_true", help="leave the classifier out: pooled features")
    head.add_argument("--keep-background", action="store_true", help="keep class 0 of TensorFlow's 1001")
    parser.add_argument("--classes", metavar="FILE", help="text file with a class name a line (default: ImageNet's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert, and print the new file and what the old one was taken for."""
    import resnetv2
    from resnetv2.cli.show import print_json

    result = resnetv2.convert(
        args.file,
        out=args.out,
        source=args.source,
        to=args.to,
        variant=args.variant,
        drop_head=args.drop_head,
        keep_background=args.keep_background,
        classes=args.classes,
    )
    if args.json:
        print_json({**asdict(result), "out": str(result.out)})
        return 0
    print(result.out)
    print(f"{result.source}: {result.reason}")
    if result.caveat:
        print(f"preprocessing: {result.caveat}")
    return 0
