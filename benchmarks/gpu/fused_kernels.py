"""The fused pre-activation kernels on a GPU: are they right, how fast is each per shape, what is a whole step worth?

    PYTHONPATH=src python benchmarks/gpu/fused_kernels.py [--batch 256] [--sections ceilings,check,shapes,step]

Right: against float64 on the GPU, for every layer shape of ResNet50-v2 at 224 pixels and odd sizes, with poisoned
outputs (NaN in new memory), twice with the same bits. Times: medians of triton.testing.do_bench, cold cache, random
data.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import torch
import triton
from torch import Tensor, nn
from torch.nn import functional as F

from resnetv2 import create_model
from resnetv2.kernels import preact, triton_gemm, triton_norm
from resnetv2.kernels.preact import LIBRARY, NARROW, SHALLOW, WIDE, Choice, Tiling

POINTWISE = [(56, 256, 64, False), (28, 512, 128, False), (14, 1024, 256, False), (7, 2048, 512, False),
             (56, 64, 256, True), (28, 128, 512, True), (14, 256, 1024, True), (7, 512, 2048, True)]  # fmt: skip
SPATIAL = [(56, 64, 1), (56, 128, 2), (28, 128, 1), (28, 256, 2), (14, 256, 1), (14, 512, 2), (7, 512, 1)]
TILINGS = (NARROW, WIDE, SHALLOW, Tiling(64, 128, 64, 4, 3))
Times = dict[Tiling | None, float]
START = time.time()


def say(*words: object) -> None:
    print(f"[{time.time() - START:5.1f}s]", *words, flush=True)


def bench(run) -> float:
    return triton.testing.do_bench(run, warmup=5, rep=20, return_mode="median")


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def run_once(x, norm, conv, add, slope, choice):
    leaf = x.detach().requires_grad_()
    other = None if add is None else add.detach().requires_grad_()
    norm.reset_running_stats()
    for p in (*norm.parameters(), conv.weight):
        p.grad = None
    step = preact.Step(norm, [conv], [choice], None, passes_x=False)
    y, part, rows, _ = preact.PreactConv.apply(step, leaf, norm.weight, norm.bias, other, conv.weight)
    y.backward(slope)
    m = y.numel() // y.shape[1]
    one = torch.ones(y.shape[1], device="cuda")
    stats = triton_norm.combine_moments(part, rows, m, one, one, norm.eps)
    found = [y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, conv.weight.grad]
    return [t.clone() for t in (*found, norm.running_mean, norm.running_var, stats[2], stats[3])]


def oracle(x, norm, conv, add, slope):
    leaf = x.double().requires_grad_()
    weight = conv.weight.detach().double().requires_grad_()
    gamma, beta = (p.detach().double().requires_grad_() for p in (norm.weight, norm.bias))
    mean, var = torch.zeros_like(gamma).detach(), torch.ones_like(gamma).detach()
    z = F.batch_norm(leaf, mean, var, gamma, beta, training=True, momentum=norm.momentum, eps=norm.eps)
    y = F.conv2d(F.relu(z), weight, None, conv.stride, conv.padding)
    y = y if add is None else y + add.double()
    y.backward(slope.double())
    return [y.detach(), leaf.grad, gamma.grad, beta.grad, weight.grad, mean, var]


def check_case(n, h, w, c, k, kernel, stride, has_add, choices, offset=1.0):
    """Yield for each choice: it, the relative errors, and whether a second run gave the same bits."""
    norm = nn.BatchNorm2d(c).cuda()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    conv = nn.Conv2d(c, k, kernel, stride, padding=kernel // 2, bias=False).cuda()
    x = (channels_last(n, c, h, w) + offset).bfloat16()
    oh, ow = -(-h // stride), -(-w // stride)
    add = channels_last(n, k, oh, ow) if has_add else None
    slope = channels_last(n, k, oh, ow)
    with torch.no_grad():  # the product's operand is bfloat16: let the oracle have the same kernel
        conv.weight.copy_(conv.weight.bfloat16())
    expected = oracle(x, norm, conv, add, slope)
    for choice in choices:
        try:
            first, again = (run_once(x, norm, conv, add, slope, choice) for _ in range(2))
        except Exception as error:  # noqa: BLE001
            say("FAILED", (n, h, w, c, k, kernel), choice.forward, type(error).__name__, str(error)[:200])
            continue
        stored = first[0].double()  # statistics are those of what is stored
        stats = stored.mean((0, 2, 3)), torch.rsqrt(stored.var((0, 2, 3), correction=0) + norm.eps)
        errors = [difference(a, b) for a, b in zip(first, [*expected, *stats], strict=True)]
        same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        yield choice, errors, same


def check() -> None:
    torch.use_deterministic_algorithms(mode=True, warn_only=True)  # fills new memory with NaN
    say(
        "relative errors of y dx dgamma dbeta dw mean var ymean yrstd; bf16: the first five near 3e-3, others near 1e-7"
    )
    layers = [(4, h, h, c, k, 1, 1, add) for h, c, k, add in POINTWISE]
    odd = [(3, 13, 7, 64, 96, 1, 1, True), (1, 5, 9, 40, 24, 1, 1, False), (2, 1, 2, 64, 64, 1, 1, False)]
    spatial = [(4, h, h, c, c, 3, stride, False) for h, c, stride in SPATIAL]
    for case in (*layers, *odd, *spatial):
        tilings = TILINGS if case == layers[-2] else (WIDE,)
        report(case, [LIBRARY] if case in spatial else [Choice(t, t) for t in tilings])
    report(layers[2], [Choice(WIDE, WIDE)], offset=100.0)
    torch.use_deterministic_algorithms(mode=False)


def report(case, choices, offset=1.0) -> None:
    for choice, errors, same in check_case(*case, choices, offset=offset):
        right = same and all(e < 1.5e-2 for e in errors) and all(e < 1e-4 for e in errors[5:])  # NaN is not
        tiling = "library" if choice.forward is None else tuple(choice.forward)
        bits = "same bits" if same else "NOT THE SAME BITS"
        say("ok " if right else "BAD", case, tiling, " ".join(f"{e:.1e}" for e in errors), bits)


def ceilings() -> None:
    a, b = torch.randn(2, 1 << 29, device="cuda").unbind()
    say(f"copy {8 * a.numel() / bench(lambda: b.copy_(a)) / 1e9:.2f} TB/s read + written")
    a, b = torch.randn(2, 8192, 8192, device="cuda").bfloat16().unbind()
    say(f"product 8192^3 {2 * 8192**3 / bench(lambda: a @ b) / 1e9:.0f} TFLOP/s")


def measure_products(
    n: int, h: int, w: int, c: int, k: int, add: bool, tilings: tuple[Tiling, ...] = TILINGS
) -> list[Times]:
    """Return milliseconds of forward pass and weight gradient of a 1x1 convolution, by tiling.

    None is the library's way, with the passes that it needs around it. (n, c, h, w) bfloat16 -> (n, k, h, w)
    """
    x, slope, kernel = channels_last(n, c, h, w), channels_last(n, k, h, w), channels_last(k, c, 1, 1)
    shortcut = channels_last(n, k, h, w) if add else None
    pixels, slopes, matrix = preact.flatten(x), preact.flatten(slope), preact.flatten_kernel(kernel)
    flat = None if shortcut is None else preact.flatten(shortcut)
    _, part, rows = triton_norm.moments(pixels)
    ones = torch.ones(c, device="cuda")
    norm = triton_norm.combine_moments(part, rows, len(pixels), ones, ones, 1e-5)

    def library_forward() -> None:
        activation = preact.unflatten(triton_norm.apply(pixels, norm), x)
        triton_norm.moments(preact.flatten(F.conv2d(activation, kernel)), flat)

    def library_weight_gradient() -> None:
        activation = preact.unflatten(triton_norm.apply(pixels, norm), x)
        torch.nn.grad.conv2d_weight(activation, kernel.shape, slope)

    forward: dict[Tiling | None, Callable[[], object]] = {None: library_forward}
    weights: dict[Tiling | None, Callable[[], object]] = {None: library_weight_gradient}
    for tiling in tilings:
        forward[tiling] = partial(triton_gemm.forward, pixels, norm, matrix, flat, tiling)
    weights[WIDE] = partial(triton_gemm.weight_gradient, slopes, pixels, norm, WIDE, preact.PROGRAMS)
    return [{tiling: _time(run) for tiling, run in ways.items()} for ways in (forward, weights)]


def _time(run: Callable[[], object]) -> float:
    """Return the median of milliseconds, with a cold cache; infinite where a tiling does not fit the GPU."""
    try:
        run()
    except (triton.runtime.errors.OutOfResources, RuntimeError):
        return float("inf")
    return bench(run)


def shapes(batch: int) -> None:
    for h, c, k, add in POINTWISE:
        m = batch * h * h
        least = [2 * m * (c + k + (k if add else 0)), 2 * m * (k + c)]
        for name, times, size in zip(("fwd", "dw"), measure_products(batch, h, h, c, k, add), least, strict=True):
            order = sorted(times, key=lambda tiling, times=times: times[tiling])
            fastest = times[order[0]]
            rates = f"{size / fastest / 1e9:.2f} TB/s {2 * m * c * k / fastest / 1e9:.0f} TFLOP/s"
            rows = "  ".join(f"{'library' if t is None else '/'.join(map(str, t))} {times[t]:.3f}" for t in order[:5])
            gain = f"library {times[None]:.3f} best {fastest:.3f} ({times[None] / fastest:.2f}x)"
            say(f"{h} {c}>{k} {name}: {gain} {rates} | {rows}")


def step(batch: int) -> None:
    for graph in (False, True):
        for kernels in ("plain", "auto", "fused"):
            torch.cuda.empty_cache()
            try:
                say(f"{kernels}{', graph' if graph else ''}: {measure_step(batch, graph, kernels)}")
            except Exception:  # noqa: BLE001
                say(kernels, "FAILED")
                traceback.print_exc(limit=6)


def measure_step(batch: int, graph: bool, kernels: str) -> str:
    """Time forward and backward of ResNet50-v2 at 224 pixels; memory and a gradient's norm tell that it is the same."""
    pictures = channels_last(batch, 3, 224, 224)
    labels = torch.randint(0, 1000, (batch,), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    torch.manual_seed(0)
    model = create_model("resnet50v2", kernels=kernels).cuda()
    model = model.to(memory_format=torch.channels_last)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    def once() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=not graph):
            loss = F.cross_entropy(model(pictures), labels)
        loss.backward()
        return loss.detach()

    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            model.zero_grad()
            loss = once()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - held) / batch / 1e6
    slope = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    model.zero_grad()
    run = once
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            once()
        run = captured.replay
    marks = []
    for _ in range(14):
        if not graph:
            model.zero_grad()
        marks.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
        marks[-1][0].record()
        run()
        marks[-1][1].record()
    torch.cuda.synchronize()
    ms = sorted(begin.elapsed_time(end) for begin, end in marks[3:])
    return (
        f"{ms[5]:.2f} ms ({ms[0]:.2f} … {ms[-1]:.2f}), {batch / ms[5] * 1e3:,.0f} pictures/s, "
        f"{peak:.1f} MB a picture above the weights; loss {loss:.4f}, gradient norm {slope:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sections", default="ceilings,check,shapes,step")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    say(torch.cuda.get_device_name(), torch.__version__, triton.__version__, sys.version.split()[0])
    sections = {"check": check, "ceilings": ceilings, "shapes": lambda: shapes(args.batch),
                "step": lambda: step(args.batch)}  # fmt: skip
    for name in args.sections.split(","):
        say("--", name)
        try:
            sections[name]()
        except Exception:  # noqa: BLE001
            traceback.print_exc(limit=8)
    say("end")


if __name__ == "__main__":
    main()
