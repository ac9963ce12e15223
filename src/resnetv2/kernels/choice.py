"""Which kernel computes a convolution of a training step: measured once for each shape on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from resnetv2.kernels import preact, triton_gemm, triton_norm
from resnetv2.kernels.triton_gemm import Tiling

TILINGS = (
    Tiling(128, 64, 64, 4, 2),
    Tiling(128, 64, 64, 4, 3),
    Tiling(128, 128, 64, 8, 2),
    Tiling(128, 128, 64, 8, 3),
    Tiling(128, 128, 64, 4, 3),
    Tiling(64, 128, 64, 4, 3),
    Tiling(64, 64, 64, 4, 4),
    Tiling(128, 256, 64, 8, 3),
    Tiling(256, 64, 64, 8, 3),
)
Times = dict[Tiling | None, float]


def measure(n: int, h: int, w: int, c: int, k: int, add: bool, tilings: tuple[Tiling, ...] = TILINGS) -> list[Times]:
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
        assert dx is not None  # noqa: S101
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
