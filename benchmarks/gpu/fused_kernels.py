"""The fused pre-activation kernels on a GPU: are they right, how fast is each per shape, and what is a whole step worth.

    PYTHONPATH=src python benchmarks/gpu/fused_kernels.py [--batch 256] [--sections ceilings,check,shapes,step,library]

Correct: against float64 on the GPU, for every layer shape of ResNet50-v2 at 224 pixels and odd sizes, with outputs poisoned (NaN
in new memory), twice with the same bits. Times: medians of triton.testing.do_bench, cold cache, random data.
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
from resnetv2.kernels.preact import LIBRARY, NARROW, WIDE, Choice, Tiling

POINTWISE = [(56, 256, 64, False), (28, 512, 128, False), (14, 1024, 256, False), (7, 2048, 512, False),
             (56, 64, 256, True), (28, 128, 512, True), (14, 256, 1024, True), (7, 512, 2048, True)]  # fmt: skip
SPATIAL = [(56, 64, 1), (56, 128, 2), (28, 128, 1), (28, 256, 2), (14, 256, 1), (14, 512, 2), (7, 512, 1)]
TILINGS = (
    NARROW,
    WIDE,
    Tiling(128, 64, 64, 4, 2),
    Tiling(128, 64, 64, 8, 1),
    Tiling(128, 64, 64, 8, 2),
    Tiling(64, 64, 64, 4, 1),
    Tiling(64, 64, 64, 4, 2),
    Tiling(128, 32, 64, 4, 2),
    Tiling(64, 128, 64, 4, 3),
)
Times = dict[Tiling | None, float]
START = time.time()
best: dict[tuple[int, int], Choice] = {}


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
    step = preact.Step(norm, [conv], [choice], None, False)
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
    y = F.conv2d(F.relu(F.batch_norm(leaf, mean, var, gamma, beta, True, norm.momentum, norm.eps)), weight, None,
                 conv.stride, conv.padding)  # fmt: skip
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
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    say("relative errors of y dx dgamma dbeta dw mean var ymean yrstd; bf16: the first five to 1e-2, the others far below")
    cases = [(4, h, h, c, k, 1, 1, add) for h, c, k, add in POINTWISE]
    odd = [(3, 13, 7, 64, 96, 1, 1, True), (1, 5, 9, 40, 24, 1, 1, False), (2, 1, 1, 64, 64, 1, 1, False)]
    worst = [0.0] * 9
    for case in (*cases, *odd):
        tilings = (None, *TILINGS) if case in cases else (None, *TILINGS[:2])
        for choice, errors, same in check_case(*case, [Choice(t, t, t) for t in tilings]):
            ok = same and max(errors[:5]) < 1.5e-2 and max(errors[5:]) < 1e-4 and not any(e != e for e in errors)
            tiling = choice.forward
            if not ok or tiling is None:
                bits = "same bits" if same else "NOT THE SAME BITS"
                say("ok " if ok else "BAD", case, "library" if tiling is None else tuple(tiling),
                    " ".join(f"{e:.1e}" for e in errors), bits)  # fmt: skip
            if tiling is not None:
                worst = [max(a, b) for a, b in zip(worst, errors, strict=True)]
    say("worst of ours", " ".join(f"{e:.1e}" for e in worst))
    for h, c, stride in SPATIAL:
        for _, errors, same in check_case(4, h, h, c, c, 3, stride, False, [LIBRARY]):
            say("3x3", h, c, stride, " ".join(f"{e:.1e}" for e in errors), "same bits" if same else "not the same bits")
    for _, errors, _ in check_case(4, 14, 14, 256, 64, 1, 1, False, [Choice(*[TILINGS[0]] * 3)], offset=100.0):
        say("mean of 100 deviations:", " ".join(f"{e:.1e}" for e in errors))
    torch.use_deterministic_algorithms(False)


def ceilings() -> None:
    a, b = torch.randn(2, 1 << 29, device="cuda").unbind()
    say(f"copy {8 * a.numel() / bench(lambda: b.copy_(a)) / 1e9:.2f} TB/s read + written")
    a, b = torch.randn(2, 8192, 8192, device="cuda").bfloat16().unbind()
    say(f"product 8192^3 {2 * 8192**3 / bench(lambda: a @ b) / 1e9:.0f} TFLOP/s")


def measure_products(n: int, h: int, w: int, c: int, k: int, add: bool, tilings: tuple[Tiling, ...] = TILINGS) -> list[Times]:
    """Return milliseconds of forward pass, input gradient and weight gradient of a 1x1 convolution, by tiling.

    None is the library's way, with the passes that it needs around it. (n, c, h, w) bfloat16 -> (n, k, h, w)
    """

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)

    x, slope, kernel = random(n, c, h, w), random(n, k, h, w), random(k, c, 1, 1)
    shortcut = random(n, k, h, w) if add else None
    pixels, slopes, matrix = preact.flatten(x), preact.flatten(slope), preact.flatten_kernel(kernel)
    flat = None if shortcut is None else preact.flatten(shortcut)
    _, part, rows = triton_norm.moments(pixels)
    ones = torch.ones(c, device="cuda")
    norm = triton_norm.combine_moments(part, rows, len(pixels), ones, ones, 1e-5)

    def library_forward() -> None:
        activation = preact.unflatten(triton_norm.apply(pixels, norm), x)
        triton_norm.moments(preact.flatten(F.conv2d(activation, kernel)), flat)

    def library_input_gradient() -> None:
        dx = gradients(slope, x, kernel, (True, False))[0]
        assert dx is not None
        triton_norm.reduce(preact.flatten(dx), pixels, norm)

    def library_weight_gradient() -> None:
        activation = preact.unflatten(triton_norm.apply(pixels, norm), x)
        gradients(slope, activation, kernel, (False, True))

    conv = torch.nn.Conv2d(c, k, 1, bias=False)

    def gradients(slope: Tensor, x: Tensor, kernel: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
        return preact.library_gradients(x, x, kernel, slope, conv, needs)

    forward: dict[Tiling | None, Callable[[], object]] = {None: library_forward}
    inputs: dict[Tiling | None, Callable[[], object]] = {None: library_input_gradient}
    weights: dict[Tiling | None, Callable[[], object]] = {None: library_weight_gradient}
    for tiling in tilings:
        forward[tiling] = partial(triton_gemm.forward, pixels, norm, matrix, flat, tiling)
        inputs[tiling] = partial(triton_gemm.input_gradient, slopes, matrix, pixels, norm, tiling)
        weights[tiling] = partial(triton_gemm.weight_gradient, slopes, pixels, norm, tiling, preact.PROGRAMS)
    return [{tiling: _time(run) for tiling, run in ways.items()} for ways in (forward, inputs, weights)]


def _time(run: Callable[[], object]) -> float:
    """Return the median of milliseconds, with a cold cache; infinite where a tiling does not fit the GPU."""
    try:
        run()
    except (triton.runtime.errors.OutOfResources, RuntimeError):
        return float("inf")
    return float(triton.testing.do_bench(run, warmup=5, rep=20, return_mode="median"))


def shapes(batch: int) -> None:
    for h, c, k, add in POINTWISE:
        m = batch * h * h
        least = [2 * m * (c + k + (k if add else 0)), 2 * m * (k + 2 * c), 2 * m * (k + c)]
        chosen: list[Tiling | None] = []
        for name, times, bytes_ in zip(("fwd", "dx ", "dw "), measure_products(batch, h, h, c, k, add), least, strict=True):
            order = sorted(times, key=lambda tiling: times[tiling])
            chosen.append(order[0])
            rows = "  ".join(f"{'library' if t is None else '/'.join(map(str, t))} {times[t]:.3f}" for t in order[:4])
            fastest = times[order[0]]
            say(f"{h:3d} {c:4d}>{k:4d} {name} library {times[None]:.3f}  best {fastest:.3f} ({times[None] / fastest:.2f}x)"
                f"  {bytes_ / fastest / 1e9:.2f} TB/s {2 * m * c * k / fastest / 1e9:.0f} TFLOP/s | {rows}")  # fmt: skip
        best[c, k] = Choice(*chosen)


def library(batch: int) -> None:
    for h, c, stride in SPATIAL:
        x, kernel = channels_last(batch, c, h, h), channels_last(c, c, 3, 3)
        pixels = preact.flatten(x)
        _, part, rows = triton_norm.moments(pixels)
        ones = torch.ones(c, device="cuda")
        norm = triton_norm.combine_moments(part, rows, len(pixels), ones, ones, 1e-5)
        conv = nn.Conv2d(c, c, 3, stride, 1, bias=False)
        y = F.conv2d(x, kernel, None, stride, 1)
        bn = nn.BatchNorm2d(c).cuda()
        flops = 18 * c * c * y.numel() / c
        times = {
            "apply": lambda: triton_norm.apply(pixels, norm),
            "moments": lambda: triton_norm.moments(pixels),
            "combine": lambda: triton_norm.combine_moments(part, rows, len(pixels), ones, ones, 1e-5),
            "reduce": lambda: triton_norm.reduce(pixels, pixels, norm),
            "gradient": lambda: triton_norm.gradient(pixels, pixels, norm, norm[:2]),
            "conv": lambda: F.conv2d(x, kernel, None, stride, 1),
            "dx": lambda: preact.library_gradients(x, x, kernel, y, conv, (True, False)),
            "dw": lambda: preact.library_gradients(x, x, kernel, y, conv, (False, True)),
            "torch's norm": lambda: bn(x),
        }
        found = {name: bench(run) for name, run in times.items()}
        say(f"3x3 {h} {c} /{stride}: map {2 * x.numel() / 1e6:.0f} MB,", "  ".join(f"{k} {v:.3f}" for k, v in found.items()),
            f"| conv {flops / found['conv'] / 1e9:.0f} dx {flops / found['dx'] / 1e9:.0f} dw {flops / found['dw'] / 1e9:.0f} TFLOP/s,"
            f" apply {4 * x.numel() / found['apply'] / 1e9:.2f} TB/s")  # fmt: skip


def step(batch: int) -> None:
    pictures = channels_last(batch, 3, 224, 224)
    labels = torch.randint(0, 1000, (batch,), device="cuda")

    def measure(name: str, graph: bool, **options: str) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(0)
        model = create_model("resnet50v2", **options).cuda().to(memory_format=torch.channels_last)
        held = torch.cuda.memory_allocated()

        def once() -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=not graph):
                loss = F.cross_entropy(model(pictures), labels)
            loss.backward()
            return loss

        def clear() -> None:
            for p in model.parameters():
                p.grad = None

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                clear()
                loss = once()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - held) / batch / 1e6
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        run = once
        if graph:
            clear()
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                once()
            run = captured.replay
        times = []
        for _ in range(12):
            if not graph:
                clear()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            times.append((begin, end))
        torch.cuda.synchronize()
        ms = sorted(a.elapsed_time(b) for a, b in times[2:])
        say(f"{name}{' graph' if graph else ''}: {ms[5]:.2f} ms ({ms[0]:.2f} … {ms[-1]:.2f}), {batch / ms[5] * 1e3:,.0f} pictures/s, "
            f"{peak:.1f} MB a picture above the weights; loss {loss.item():.4f}, gradient norm {norm:.4f}")  # fmt: skip

    for graph in (False, True):
        for name, way in WAYS.items():
            try:
                preact.choose = way or choose
                measure(name, graph, kernels="plain" if way is None else "fused")
            except Exception:  # noqa: BLE001
                say(name, graph, "FAILED")
                traceback.print_exc(limit=6)
    preact.choose = choose


def pick(x, convs, add) -> list[Choice]:
    """Return the fastest of the section "shapes"."""
    if len(convs) > 1 or convs[0].kernel_size != (1, 1):
        return [LIBRARY] * len(convs)
    return [best.get((convs[0].in_channels, convs[0].out_channels), LIBRARY)]


choose = preact.choose
WAYS = {
    "plain": None,
    "fused, library products": lambda x, convs, add: [LIBRARY] * len(convs),
    "fused, as chosen": choose,
    "fused, as measured above": pick,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sections", default="ceilings,check,shapes,step,library")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    say(torch.cuda.get_device_name(), torch.__version__, triton.__version__, sys.version.split()[0])
    sections = {"check": check, "ceilings": ceilings, "shapes": lambda: shapes(args.batch),
                "library": lambda: library(args.batch), "step": lambda: step(args.batch)}  # fmt: skip
    for name in args.sections.split(","):
        say("--", name)
        try:
            sections[name]()
        except Exception:  # noqa: BLE001
            traceback.print_exc(limit=8)
    say("end")


if __name__ == "__main__":
    main()
