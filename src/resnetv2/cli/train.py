"""``resnetv2 train``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from resnetv2.cli.check import GROUP_BY
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.recipes import RULES, TrainConfig, parse_settings

FIGURES = {  # a metric's name and how its numbers are written
    "top1": ("top-1", "{:.2%}"),
    "map": ("mean average precision", "{:.2%}"),
    "mae": ("mean absolute error", "{:.4g}"),
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    default = TrainConfig()
    parser = commands.add_parser(
        "train",
        help="train a ResNet-v2 on a folder of labelled pictures",
        description="Train a ResNet-v2 from scratch, or from weights. DATA is root/{train,val,test}/class/*, or "
        "root/class/* (split by itself, the same way every time), or a CSV with the columns image_path,label[,split]; "
        "in place of label, a column labels holds several classes with | between, a column target a number.",
        epilog="Ctrl-C saves first; continue with --resume. --set takes any field of TrainConfig, such as hflip=0, "
        "crop_scale=0.5,1, weight_decay=1e-4, mixup=0.2, label_smoothing=0, memory=recompute, model.stem=3x3. "
        "ImageNet recipes: " + ", ".join(IMAGENET_RECIPES) + ".",
    )
    parser.add_argument(
        "data", metavar="DATA", help="folder of pictures, CSV, packed folder, or a run's index.csv; it is only read"
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="new folder for the run")
    parser.add_argument("--weights", metavar="MODEL", help="model file or published weights to start from")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="scratch; with --weights probe (a head on cached features), lp-ft (that, then the last stage), finetune "
        "(all of it), auto (chosen by pictures, machine and time); or an ImageNet recipe (default: auto or scratch)",
    )
    parser.add_argument(
        "--time-budget", type=_seconds, metavar="T", help="what auto may plan for: 90s, 10m, 2h (default: 15m on a CPU)"
    )
    parser.add_argument("--arch", metavar="NAME", help=f"architecture; see resnetv2 models (default: {default.arch})")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help=f"passes over the pictures (default: {default.epochs}, or the recipe's)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PX",
        help=f"side of the network's input (default: {default.image_size}, or the weights')",
    )
    parser.add_argument("--batch-size", type=int, metavar="B", help=f"pictures a step (default: {default.batch_size})")
    parser.add_argument(
        "--lr", type=float, help="peak learning rate (default: 0.2 for a batch of 256 in proportion, or the recipe's)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help=f"of every random choice (default: {default.seed})")
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument(
        "--on-bad-image",
        choices=RULES["on_bad_image"].choices,
        help="unreadable pictures: refuse, or leave out (default: error)",
    )
    parser.add_argument("--group-by", metavar="COLUMN_OR_REGEX", help=f"{GROUP_BY}; the split keeps them together")
    parser.add_argument("--amp", choices=RULES["amp"].choices, help="mixed precision (default: off)")
    parser.add_argument(
        "--bn",
        choices=RULES["bn"].choices,
        help="batch norm's statistics: learn, keep to the bit, or compute exactly each epoch (default: train)",
    )
    parser.add_argument("--compile", action="store_true", default=None, help="torch.compile the network")
    parser.add_argument(
        "--track",
        choices=RULES["track"].choices,
        help="who is told the figures (default: TensorBoard where it is installed)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting; repeatable")
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN from its newest checkpoint")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and print where the model is and what to do with it."""
    import resnetv2
    from resnetv2.cli.show import print_json

    result = resnetv2.train(
        args.data,
        out=args.out,
        weights=args.weights,
        recipe=args.recipe,
        time_budget=args.time_budget,
        arch=args.arch,
        epochs=args.epochs,
        image_size=args.image_size,
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
        device=args.device,
        on_bad_image=args.on_bad_image,
        group_by=args.group_by,
        amp=args.amp,
        bn=args.bn,
        compile=args.compile,
        track=args.track,
        set=parse_settings(args.set),
        resume=args.resume,
    )
    from resnetv2.training.distributed import World  # needs torch, of which train has said whether it is there

    if not World.from_environment().is_first:
        return 0
    if args.json:
        print_json({k: str(v) if k in ("out", "best", "last") else v for k, v in asdict(result).items()})
        return 0
    print(f"{result.best}")
    name, form = FIGURES[result.metric]
    interval = " – ".join(map(form.format, result.val_score_ci95)) if result.val_score_ci95 else "unknown"
    print(
        f"best epoch {result.best_epoch} of {result.epochs}: {name} {form.format(result.val_score)} on "
        f"{result.val_n:,} validation pictures (95 % interval {interval})"
    )
    return 0


def _seconds(text: str) -> float:
    """Read a time such as "90s", "10m" or "2h"."""
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        value = float(number) * (unit or 0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a time such as 90s, 10m or 2h is expected, got {text!r}")
    return value
