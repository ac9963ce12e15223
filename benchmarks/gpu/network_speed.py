"""Time ResNet50-v2 whole and layer by layer on a CUDA GPU, beside timm's ``resnetv2_50``: training, inference, memory.

Rates are medians of CUDA event times, one event pair for each step, after warm-up, on random data in rotating buffers.
A training step is forward, cross entropy, backward and an SGD update with momentum, in bfloat16 autocast.

    python benchmarks/gpu/network_speed.py
    python benchmarks/gpu/network_speed.py --only "training ours compile" --repeats 30 --json rows.jsonl

Every row prints as soon as it is measured, and a row that fails says why.
"""

import argparse
import json
import re
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from resnetv2.creation import create_model

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from peers import import_timm

BUFFERS = 4  # input batches that take turns
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TRAINING = [  # network, how, layout, pixels, batch
    ("timm", "eager", "NCHW", 224, 256),
    ("timm", "eager", "NHWC", 224, 256),
    ("ours", "eager", "NCHW", 224, 256),
    ("ours", "eager", "NHWC", 224, 64),
    ("ours", "eager", "NHWC", 224, 256),
    ("ours", "eager", "NHWC", 224, 512),
    ("ours", "recompute", "NHWC", 224, 256),
    ("ours", "graph", "NHWC", 224, 64),
    ("ours", "graph", "NHWC", 224, 256),
    ("ours", "eager", "NHWC", 160, 256),
    ("ours", "eager", "NHWC", 128, 256),
    ("ours", "graph", "NHWC", 128, 256),
    ("timm", "compile", "NHWC", 224, 256),
    ("ours", "compile", "NHWC", 224, 256),
    ("ours", "compile+graph", "NHWC", 224, 256),
    ("ours", "auto", "NHWC", 224, 256),
    ("ours", "auto", "NHWC", 224, 512),
    ("ours", "auto", "NHWC", 160, 512),
    ("ours", "fused+graph", "NHWC", 224, 256),
    ("ours", "fused+graph", "NHWC", 224, 512),
    ("ours", "compile", "NHWC", 160, 256),
]
INFERENCE = [  # network, how, batch
    ("timm", "eager", 256),
    ("ours", "eager", 256),
    ("ours", "folded", 256),
    ("ours", "folded+graph", 1),
    ("timm", "graph", 1),
    ("timm", "eager", 1),
    ("ours", "folded", 1),
    ("timm", "compile", 256),
    ("ours", "folded+compile", 256),
    ("ours", "folded+compile+graph", 1),
]


def build(network, how=""):
    """Return timm's network or ours, with 1,000 classes, on the GPU."""
    torch.manual_seed(0)
    if network == "timm":
        return import_timm().create_model("resnetv2_50").cuda()
    kernels = next((name for name in ("auto", "fused") if name in how), "plain")
    return create_model("resnet50v2", memory="recompute" if how == "recompute" else "saved", kernels=kernels).cuda()


def pictures(batch, pixels, layout, dtype=torch.float32):
    """Return rotating batches of random pictures."""
    shape = (batch, 3, pixels, pixels)
    return [torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=layout) for _ in range(BUFFERS)]


def events(run, repeats, warmup):
    """Return milliseconds of each of ``repeats`` calls ``run(number)``."""
    for number in range(warmup):
        run(number)
    pairs = []
    for number in range(repeats):
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        run(number)
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def captured(run, inputs):
    """Return ``run`` as replays of one CUDA graph whose input is copied in."""
    static = inputs[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(static)

    def replay(x):
        static.copy_(x)
        graph.replay()

    return replay


def train(network, how, layout, pixels, batch, repeats):
    """Return milliseconds of training steps, and the peak of memory above weights and optimizer, in bytes a picture."""
    model = build(network, how).to(memory_format=LAYOUTS[layout]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    inputs = pictures(batch, pixels, LAYOUTS[layout])
    target = torch.randint(1000, (batch,), device="cuda")
    forward = torch.compile(model, dynamic=False) if "compile" in how else model

    def step(x):
        with torch.autocast("cuda", torch.bfloat16, cache_enabled="graph" not in how):
            loss = F.cross_entropy(forward(x).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none="graph" not in how)

    step(inputs[0])
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(inputs[1])
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - held) / batch
    run = captured(step, inputs) if "graph" in how else step
    return events(lambda number: run(inputs[number % BUFFERS]), repeats, 8), peak


@torch.inference_mode()
def infer(network, how, batch, repeats):
    """Return milliseconds of forward passes in bfloat16 at 224 pixels."""
    model = build(network).to(memory_format=torch.channels_last).eval()
    if "folded" in how:
        from resnetv2.training.frozen import fold_norms

        model = fold_norms(model)
    model = model.bfloat16()
    inputs = pictures(batch, 224, torch.channels_last, torch.bfloat16)
    run = torch.compile(model, dynamic=False) if "compile" in how else model
    if "graph" in how:
        run = captured(run, inputs)
    return events(lambda number: run(inputs[number % BUFFERS]), repeats * (5 if batch == 1 else 1), 20)


def layers(batch, repeats):
    """Yield a row for each different convolution of the network: milliseconds, and share of what the chip allows."""
    flops, bandwidth = ceilings()
    yield {"row": "ceilings", "bf16_tflops": flops / 1e12, "copy_tb_s": bandwidth / 1e12}
    for (kernel, c, k, pixels, stride), count in shapes().items():
        conv = nn.Conv2d(c, k, kernel, stride, kernel // 2, bias=False, device="cuda", dtype=torch.bfloat16)
        conv = conv.to(memory_format=torch.channels_last)
        x = torch.randn(batch, c, pixels, pixels, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last).requires_grad_(c > 3)
        y = conv(x)
        slope = torch.randn_like(y)
        forward = statistics.median(events(lambda _, conv=conv, x=x: conv(x), repeats, 3))
        wanted = [t for t in (x, conv.weight) if t.requires_grad]
        back = [
            statistics.median(
                events(lambda _, y=y, t=t, g=slope: torch.autograd.grad(y, t, g, retain_graph=True), repeats, 3)
            )
            for t in wanted
        ]
        work = 2 * y.numel() * c * kernel**2
        moved = 2 * (x.numel() + y.numel() + conv.weight.numel())
        bound = 1e3 * max(work / flops, moved / bandwidth)
        norm = nn.BatchNorm2d(c, device="cuda")
        with torch.no_grad():
            bn = events(lambda _, norm=norm, x=x: F.relu(norm(x), inplace=True), repeats, 3)
        yield {
            "row": f"layer {kernel}x{kernel} {c}>{k} {pixels}px/{stride} x{count}",
            "forward_ms": forward,
            "backward_ms": sum(back),
            "bound_ms_each": bound,
            "forward_share": bound / forward,
            "backward_share": bound * len(back) / sum(back),
            "bytes_mb": moved / 1e6,
            "bn_relu_ms": statistics.median(bn),
        }


def shapes():
    """Return how often each convolution occurs: (kernel, C, K, input pixels, stride) -> count, at 224 pixels."""
    found = {}
    model = create_model("resnet50v2").eval()

    def note(conv, inputs, _):
        key = (conv.kernel_size[0], conv.in_channels, conv.out_channels, inputs[0].shape[-1], conv.stride[0])
        found[key] = found.get(key, 0) + 1

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 224, 224))
    return found


def ceilings():
    """Return the rates that this chip reaches: bf16 matrix product in FLOP/s, copy in bytes/s read and written."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = statistics.median(events(lambda _: a @ b, 10, 3))
    big = torch.randint(255, (2**31,), device="cuda", dtype=torch.uint8)
    other = torch.empty_like(big)
    copy = statistics.median(events(lambda _: other.copy_(big), 10, 3))
    return 2 * 8192**3 / product * 1e3, 2 * 2**31 / copy * 1e3


def rated(row, batch, times, **more):
    """Return a row of figures: pictures a second from each step's time."""
    rates = sorted(1e3 * batch / t for t in times)
    median = statistics.median(times)
    return {
        "row": row,
        "images_s": round(1e3 * batch / median),
        "min": round(rates[0]),
        "max": round(rates[-1]),
        "ms": round(median, 3),
        "n": len(times),
        **more,
    }


def trained(name, case, repeats):
    """Return the row of a case of TRAINING."""
    times, peak = train(*case, repeats)
    return [rated(name, case[-1], times, mb_a_picture=round(peak / 1e6, 1))]


def inferred(name, case, repeats):
    """Return the row of a case of INFERENCE."""
    return [rated(name, case[-1], infer(*case, repeats))]


def rows(only, repeats):
    """Yield name and function of each group of rows that is wanted."""
    found = [("training {} {} {} {}px b{}".format(*case), trained, case) for case in TRAINING]
    found += [("inference {} {} b{}".format(*case), inferred, case) for case in INFERENCE]
    for name, measure, case in found:
        if re.search(only, name):
            yield name, partial(measure, name, case, repeats)
    if re.search(only, "layers"):
        yield "layers", partial(layers, 256, 10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="regular expression of the rows that are wanted (default: all)")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps of each row (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="append the rows to this file, too")
    arguments = parser.parse_args()
    facts = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    print(json.dumps({**facts, "timm": import_timm().__version__, "cuda": torch.version.cuda}), flush=True)
    torch.backends.cudnn.benchmark = True
    for name, measure in rows(arguments.only, arguments.repeats):
        try:
            for row in measure():
                short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
                print(json.dumps(short), flush=True)
                if arguments.json:
                    with arguments.json.open("a") as file:
                        file.write(json.dumps({**facts, **short}) + "\n")
        except RuntimeError as error:
            print(json.dumps({"row": name, "failed": str(error).splitlines()[0][:300]}), flush=True)
        torch.cuda.empty_cache()
        torch.compiler.reset()


if __name__ == "__main__":
    main()
