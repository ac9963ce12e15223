"""``resnetv2 verify``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from resnetv2.cli.placement import add_placement


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "verify",
        help="prove that a model file is whole and still gives its answers",
        description="Check a model file's SHA-256, then replay its golden samples from picture bytes to logits.",
    )
    parser.add_argument("model", metavar="FILE", help="model file or artefact")
    add_placement(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify and print the verdict; what fails is an error."""
    import resnetv2
    from resnetv2.cli.show import print_json

    result = resnetv2.verify(args.model, device=args.device, runtime=args.runtime)
    if args.json:
        print_json(asdict(result))
    else:
        print(
            f"ok  {result.path}: SHA-256 matches; {result.samples} golden samples give the same labels, worst logit "
            f"difference {result.worst:.1e} of the largest (allowed {result.tolerance:.0e})"
        )
    return 0
