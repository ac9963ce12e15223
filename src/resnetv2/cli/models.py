"""``resnetv2 models``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetv2.weights.catalogue import Card

_COLUMNS = ("weights", "publisher", "classes", "pixels", "top-1 / top-5", "parameters", "licence")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "models",
        help="list the architectures and the published weights",
        description="List the architectures that train --arch and create_model take, and the published weights. With "
        "the whole name of weights, all that is known of them. Torch is not needed.",
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, such as '*50*'")
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what matches; that nothing does is an error."""
    import resnetv2
    from resnetv2.cli.show import print_json, print_table
    from resnetv2.errors import ConfigError
    from resnetv2.weights.catalogue import cards

    names, weights = resnetv2.list_models(args.pattern), cards(args.pattern)
    if not names and not weights:
        raise ConfigError(f"no architecture and no published weights match {args.pattern!r}")
    if args.json:
        print_json({"architectures": [_architecture(name) for name in names], "weights": list(map(_weights, weights))})
        return 0
    if [found.name for found in weights] == [args.pattern]:
        _print_card(weights[0])
        return 0
    if names:
        _print_architectures(names)
    if weights:
        print_table(_COLUMNS, map(_row, weights))
    return 0


def document() -> str:
    """Return the table of all published weights as Markdown, as docs/models.md holds it."""
    from resnetv2.weights.catalogue import cards

    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *((f"`{row[0]}`", *row[1:]) for row in map(_row, cards()))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _architecture(name: str) -> dict[str, Any]:
    from resnetv2.config import architecture
    from resnetv2.shapes import count_parameters

    config = architecture(name)
    return {"name": name, "parameters": count_parameters(config), **config.to_dict()}


def _weights(found: Card) -> dict[str, Any]:
    from resnetv2.shapes import count_parameters

    return {**found.to_dict(), "parameters": count_parameters(found.config)}


def _print_architectures(names: Iterable[str]) -> None:
    from resnetv2.cli.show import print_table
    from resnetv2.config import DIALECTS, architecture
    from resnetv2.shapes import count_parameters

    configs = {name: architecture(name) for name in names}
    rows = [
        (name, c.block, "·".join(map(str, c.depths)), f"{count_parameters(c):,}", str(c.num_features), c.stem)
        for name, c in configs.items()
    ]
    print_table(("architecture", "unit", "units", "parameters", "features", "stem"), rows)
    print(f"dialects of each: {', '.join(DIALECTS)}\n")


def _row(found: Card) -> tuple[str, ...]:
    from resnetv2.shapes import count_parameters

    first = found.results[0] if found.results else None
    return (
        found.name,
        found.source.partition(":")[0],
        str(found.config.num_classes),
        str(first.image_size if first else found.image_size),
        f"{_percent(first.top1)} / {_percent(first.top5)}" if first else "–",
        f"{count_parameters(found.config) / 1e6:.1f} M",
        found.licence.split(" (")[0].split(" by ")[0].split(";")[0],
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2f}"


def _print_card(found: Card) -> None:
    from resnetv2.shapes import count_parameters

    pixels = ", ".join(f"{key} {value}" for key, value in found.pixels.items())
    lines = [("source", found.source), ("dialect", found.dialect), ("licence", found.licence)]
    lines += [("parameters", f"{count_parameters(found.config):,}"), ("classes", _classes(found))]
    for file in found.files:
        where = file.url or f"huggingface.co/{file.repo}, {file.filename}"
        lines.append(("file", f"{where} ({file.digest or 'the publisher states no hash of it'})"))
    lines.append(("pictures", pixels or "the defaults of Preprocessing"))
    for result in found.results:
        figures = f"{result.image_size} pixels: top-1 {_percent(result.top1)}, top-5 {_percent(result.top5)}"
        lines.append(("published", "; ".join(filter(None, (figures, result.note, result.source)))))
    lines += [("note", found.note)] if found.note else []
    print(found.name)
    for key, value in lines:
        print(f"  {key:<11} {value}")


def _classes(found: Card) -> str:
    return f"{found.config.num_classes} ({found.labels})" if found.labels else "none: pooled features"
