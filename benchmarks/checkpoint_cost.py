"""Time how long a run stands still for a checkpoint, and what share of training that is at one save a minute.

The state is a real one: the network, its average and its optimizer after a step. The loop waits for the whole save,
which ends when the bytes are on the disk. Prints a Markdown table.

    python benchmarks/checkpoint_cost.py --repeats 7
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import resnetv2
from resnetv2.training.average import MovingAverage
from resnetv2.training.checkpoint import Progress, State, list_checkpoints, read_newest, save_checkpoint
from resnetv2.training.optimizers import OPTIMIZERS, make_optimizer


def make_state(arch, optimizer):
    """Return the state of a run after its first step."""
    model = resnetv2.create_model(arch, num_classes=1000)
    state = State(
        model,
        MovingAverage(model, 0.9),
        make_optimizer(model, optimizer, lr=0.1, weight_decay=1e-4),
        torch.amp.GradScaler("cpu", enabled=False),
    )
    model(torch.zeros(2, 3, 64, 64)).square().mean().backward()
    state.optimizer.step()
    return state


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="resnet50v2", help="(default: resnet50v2)")
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"], choices=OPTIMIZERS)
    parser.add_argument("--repeats", type=int, default=7, help="saves (default: 7)")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: the temporary folder)")
    arguments = parser.parse_args()
    print(
        "| optimizer | checkpoint, MB | save, s, median (min–max) | of a minute |",
        "| --- | --- | --- | --- |",
        sep="\n",
    )
    for optimizer in arguments.optimizers:
        state, times = make_state(arguments.arch, optimizer), []
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            for step in range(arguments.repeats + 1):  # the first one is not counted: nothing is dropped for it
                start = time.perf_counter()
                save_checkpoint(folder, Progress(step=step), state, {})
                times.append(time.perf_counter() - start)
            size = list_checkpoints(folder)[0].stat().st_size
            assert read_newest(folder)[0]["progress"]["step"] == arguments.repeats
        middle = statistics.median(times[1:])
        spread = f"{middle:.2f} ({min(times[1:]):.2f}–{max(times[1:]):.2f})"
        print(f"| {optimizer} | {size / 1e6:.0f} | {spread} | {middle / (60 + middle):.1%} |")


if __name__ == "__main__":
    main()
