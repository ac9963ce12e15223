"""Time full training steps of ResNet50-v2 against timm's ``resnetv2_50`` on the same batch, in one process.

A step is forward, cross entropy, backward and an SGD update. Both networks start from the same weights and take turns,
so whatever else the machine does falls on both. Prints a Markdown table. Each ratio is our speed over timm's within one
pair of steps: above 1, ours is faster.

    python benchmarks/train_speed.py --repeats 7
    python benchmarks/train_speed.py --layout channels_last --case 224:16 --case 64:64 --reuse-memory

With ``--reuse-memory`` our steps keep freed memory, as those of ``resnetv2 train`` do. Each turn then has a step before
the timed one, on both sides. With ``--compile`` both networks go through ``torch.compile``.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn import functional as F

from resnetv2.creation import create_model
from resnetv2.kernels.memory import reuse_memory

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from peers import import_timm

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def processor():
    """Return the model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def environment(device):
    """Return what a figure depends on, to be printed beside it."""
    return {
        "torch": torch.__version__,
        "timm": import_timm().__version__,
        "cpu": processor(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "command": shlex.join(["python", *sys.argv]),
    }


def networks(memory, layout, device):
    """Return timm's network and ours for each of ``memory``, with the same weights, in training mode."""
    torch.manual_seed(0)
    theirs = import_timm().create_model("resnetv2_50")
    state = theirs.state_dict()
    state["head.fc.weight"] = state["head.fc.weight"].flatten(1)  # timm's head is a 1x1 convolution
    models = {"timm": theirs}
    for mode in memory:
        models[mode] = create_model("resnet50v2", memory=mode)
        models[mode].load_state_dict(state)
    return {name: model.to(device=device, memory_format=layout).train() for name, model in models.items()}


def spread(values, digits):
    """Return "median (min–max)"."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(rows):
    """Return dicts of equal keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def seconds(model, optimizer, x, target):
    """Return how long one training step takes."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = F.cross_entropy(model(x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turn(reuse, *step):
    """Return how long a step takes; with ``reuse`` not None, the second one within that block."""
    if reuse is None:
        return seconds(*step)
    with reuse():
        seconds(*step)
        return seconds(*step)


def compare(pixels, batch, layout, arguments):
    """Return the seconds of each step by network, after one step of each that is not counted."""
    models = networks([arguments.memory], LAYOUTS[layout], arguments.device)
    x = torch.randn(batch, 3, pixels, pixels).to(arguments.device, memory_format=LAYOUTS[layout])
    target = torch.randint(1000, (batch,)).to(arguments.device)
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for name, model in models.items()}
    if arguments.compile:
        models = {name: torch.compile(model) for name, model in models.items()}
    blocks = dict.fromkeys(models)
    if arguments.reuse_memory:
        blocks = {name: nullcontext if name == "timm" else reuse_memory for name in models}
    times = {name: [] for name in models}
    for _ in range(arguments.repeats + 1):
        for name, model in models.items():
            times[name].append(turn(blocks[name], model, optimizers[name], x, target))
    return {name: values[1:] for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs of steps (default: 5)")
    parser.add_argument(
        "--case", action="append", help="pixels:batch; may be repeated (default: 64:32 and 224:8)", metavar="P:N"
    )
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="may be repeated (default: both)")
    parser.add_argument("--memory", choices=["saved", "recompute"], default="saved", help="of ours (default: saved)")
    parser.add_argument("--reuse-memory", action="store_true", help="let ours keep what it frees, as in a run")
    parser.add_argument("--compile", action="store_true", help="compile both networks")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows, results = [], []
    for case in arguments.case or ["64:32", "224:8"]:
        pixels, batch = map(int, case.split(":"))
        for layout in arguments.layout or LAYOUTS:
            times = compare(pixels, batch, layout, arguments)
            theirs, ours = times["timm"], times[arguments.memory]
            ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
            results.append({"pixels": pixels, "batch": batch, "layout": layout, "timm_s": theirs, "ours_s": ours})
            rows.append(
                {
                    "pixels": pixels,
                    "batch": batch,
                    "layout": layout,
                    "n": len(ratios),
                    "timm images/s": f"{batch / statistics.median(theirs):.2f}",
                    "ours images/s": f"{batch / statistics.median(ours):.2f}",
                    "ours ÷ timm, median (min–max)": spread(ratios, 3),
                }
            )
    facts = environment(arguments.device)
    if arguments.json:
        print(json.dumps({**facts, "memory": arguments.memory, "results": results}))
    else:
        print(table(rows), "", *(f"- {name}: {value}" for name, value in facts.items() if value), sep="\n")


if __name__ == "__main__":
    main()
