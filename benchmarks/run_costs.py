"""Measure what a run pays for being looked at, and what the optimizers cost.

Plots are drawn in fresh processes (matplotlib's import included) and again within one; TensorBoard's events are written
into a temporary folder; optimizers take steps on ResNet50-v2's weights, ours and timm's LAMB in turns. Prints Markdown.

    python benchmarks/run_costs.py --repeats 7
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from train_speed import processor, table

from resnetv2 import create_model
from resnetv2.training.optimizers import make_optimizer
from resnetv2.training.plots import write_plots
from resnetv2.training.track import Tracker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from peers import import_timm

FRESH = "import sys, pathlib; from resnetv2.training.plots import write_plots; write_plots(pathlib.Path(sys.argv[1]))"


def timed(action, repeats):
    """Return the seconds of each call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def spread(seconds, unit=1.0):
    """Return median (min–max) in seconds times unit."""
    middle, low, high = (unit * x for x in (statistics.median(seconds), min(seconds), max(seconds)))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def row(what, figures):
    """Return a row of the table."""
    return {"what": what, "median (min–max)": figures}


def looks(folder, repeats):
    """Yield the rows about plots and events."""
    for epochs in (30, 1000):
        run = folder / str(epochs)
        run.mkdir()
        figures = {"train_loss": 1.0, "val_loss": 0.5, "train_top1": 0.8, "val_top1": 0.9}
        lines = ({"epoch": e, "lr": 1 / e, **{k: v / e for k, v in figures.items()}} for e in range(1, epochs + 1))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = [sys.executable, "-c", FRESH, str(run)]
        yield row(
            f"three plots of {epochs:,} epochs, fresh process, s",
            spread(timed(partial(subprocess.run, words, check=True), repeats)),
        )
        yield row(f"three plots of {epochs:,} epochs, again, s", spread(timed(partial(write_plots, run), repeats)))
    with Tracker("tensorboard", folder, {}) as tracker:
        tracker.log(0, figures)
        seconds = timed(lambda: [tracker.log(step, figures) for step in range(1, 101)], repeats)
    yield row("a step of four figures to TensorBoard, ms", spread(seconds, 10))


def optimizers(repeats):
    """Yield the rows about optimizers, and LAMB's ratio to timm's, each pair of steps taken in turns."""
    steppers = {}
    import_timm()
    from timm.optim import Lamb, param_groups_weight_decay

    for name in ("sgd", "adamw", "lamb", "timm's lamb"):
        model = create_model("resnet50v2", num_classes=1000).to(memory_format=torch.channels_last)
        if name == "timm's lamb":
            optimizer = Lamb(param_groups_weight_decay(model, 0.02), lr=1e-3, max_grad_norm=None)
        else:
            optimizer = make_optimizer(model, name, lr=1e-3, weight_decay=0.02)
        for p in model.parameters():
            p.grad = 1e-3 * torch.randn_like(p)
        optimizer.step()
        steppers[name] = optimizer.step
    seconds = {name: [] for name in steppers}
    for _ in range(repeats):
        for name, step in steppers.items():
            seconds[name] += timed(step, 1)
    for name, values in seconds.items():
        yield row(f"optimizer step of ResNet50-v2, {name}, ms", spread(values, 1000))
    yield row(
        "lamb ÷ timm's lamb", spread([a / b for a, b in zip(seconds["lamb"], seconds["timm's lamb"], strict=True)])
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = [*looks(Path(place), args.repeats), *optimizers(args.repeats)]
    print(f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, n = {args.repeats}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
