"""Measure the training memory of ResNet50-v2 against timm's ``resnetv2_50``, above parameters and gradients.

Two figures for each network, of one forward and backward pass in channels_last:

- peak: the most memory allocated at any moment;
- kept: what the forward pass leaves allocated for the backward pass.

On the CPU both come from the allocator's own events, which torch's profiler records; on CUDA from its counters. They
count every tensor, whoever keeps it and by whatever means. Prints a Markdown table.

    python benchmarks/train_memory.py --batch 8
"""

import argparse
import json

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from train_speed import environment, networks, spread, table


def allocations(work):
    """Return the bytes of every allocation (positive) and release (negative) on the CPU, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()  # alive until the profiler has stopped
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    del result
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def highest(changes):
    """Return the highest running total."""
    total = peak = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak


def on_cpu(forward, backward):
    """Return peak and kept bytes."""
    kept = sum(allocations(forward))
    return highest(allocations(lambda: backward(forward()))), kept


def on_cuda(forward, backward):
    """Return peak and kept bytes."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss = forward()
    kept = torch.cuda.memory_allocated() - before
    backward(loss)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, kept


def measure(model, x, target):
    """Return peak and kept bytes of one pass; the gradients exist before it."""

    def forward():
        return F.cross_entropy(model(x), target)

    F.cross_entropy(model(x[:2]), target[:2]).backward()
    return (on_cuda if x.is_cuda else on_cpu)(forward, torch.Tensor.backward)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=224, help="height and width (default: 224)")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each network (default: 3)")
    parser.add_argument("--dtype", default="float32", help="of weights and activations (default: float32)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    models = networks(["saved", "recompute"], torch.channels_last, arguments.device)
    dtype = getattr(torch, arguments.dtype)
    models = {name: model.to(dtype) for name, model in models.items()}
    x = torch.randn(arguments.batch, 3, arguments.pixels, arguments.pixels)
    x = x.to(arguments.device, dtype, memory_format=torch.channels_last)
    target = torch.randint(1000, (arguments.batch,)).to(arguments.device)
    found = {name: {"peak": [], "kept": []} for name in models}
    for _ in range(arguments.repeats):
        for name, model in models.items():
            peak, kept = measure(model, x, target)
            found[name]["peak"].append(peak / arguments.batch / 1e6)
            found[name]["kept"].append(kept / arguments.batch / 1e6)
    facts = environment(arguments.device)
    if arguments.json:
        shape = {"pixels": arguments.pixels, "batch": arguments.batch}
        print(json.dumps({**facts, **shape, "mb_per_image": found}))
        return
    rows = []
    for name, values in found.items():
        row = {"network": "timm" if name == "timm" else f"ours, {name}", "n": arguments.repeats}
        for kind in ("peak", "kept"):
            ratios = [ours / theirs for ours, theirs in zip(values[kind], found["timm"][kind], strict=True)]
            row[f"{kind}, MB an image"] = spread(values[kind], 1)
            row[f"{kind} ÷ timm's"] = spread(ratios, 3)
        rows.append(row)
    print(table(rows), "", *(f"- {name}: {value}" for name, value in facts.items() if value), sep="\n")


if __name__ == "__main__":
    main()
