"""Where a network computes, and by what: the options that the commands which ask a network share."""

from __future__ import annotations

import argparse


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--runtime``."""
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: %(default)s)")
    parser.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help="what computes: auto (the fastest installed), openvino, onnx, torch, torch-compile (default: %(default)s)",
    )
