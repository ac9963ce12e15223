"""The pre-activation step, convolutions of relu(batch norm(x)), as one function of autograd for training on GPUs.

Backward keeps ``x`` alone, the raw map, in place of three maps: what norm, ReLU and convolution save. Every map carries
along the statistics that were gathered where it was written, so that the next norm does not read it for them. The
gradient of the shortcut is added where the gradient of the norm is written.

The norm must be a plain ``BatchNorm2d`` in training. ``SyncBatchNorm``, frozen statistics or weights, other norms,
standardised kernels, biases, compilers and evaluation take the plain path, unit by unit; with stochastic depth the
addition is plain. Gradients of gradients are not defined.

What is computed is ``conv(relu(norm(x)))`` of ``torch.nn`` with a trainable ``BatchNorm2d``, in the same precision or
better: normalised values and sums stay float32 until a map is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from resnetv2.console import talk
from resnetv2.errors import ConfigError, first_line

MODES = ("auto", "plain", "fused")
MEASURED = (9, 0)  # compute capability of the GPUs that "auto" was measured on: Hopper's
# pixels of a batch's first map, those of 190 pictures of 224 pixels. An H200 was measured at 256: 36.5 ms a step, the
# plain path 49.1. Starting the kernels costs a small batch what it costs a large one; at 36 ms, 190 would break even
AUTO_PIXELS = 600_000


class Tiling(NamedTuple):
    """How a product is cut: rows and columns of a tile of the result, depth of a step; warps and pipeline stages."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


class Moments(NamedTuple):
    """Mean and sum of squared deviations of each channel, (2, C, tiles) float32, of tiles of ``rows`` pixels."""

    part: Tensor
    rows: int


class Choice(NamedTuple):
    """How a convolution is computed: a tiling for each product that is ours, None for each that is the library's."""

    forward: Tiling | None
    weight_gradient: Tiling | None


class Step(NamedTuple):
    """What a pre-activation step is, tensors that autograd follows aside."""

    norm: nn.BatchNorm2d
    convs: Sequence[nn.Conv2d]
    choices: Sequence[Choice]
    moments: Moments | None
    passes_x: bool


PROGRAMS = 528  # parts of a weight gradient: four to each of the 132 multiprocessors of an H100


LIBRARY = Choice(None, None)
NARROW, WIDE, SHALLOW = Tiling(128, 64, 64, 4, 3), Tiling(128, 128, 64, 4, 3), Tiling(128, 64, 64, 4, 2)


def check_kernels(kernels: str) -> None:
    """Refuse what is no way to compute, and fused kernels where there can be none.

    Raises:
        ConfigError: an unknown word; "fused" without Triton or without a GPU that computes in bfloat16.
    """
    if kernels not in MODES:
        raise ConfigError(f"kernels must be 'auto', 'plain' or 'fused', got {kernels!r}")
    if kernels != "fused":
        return
    missing = []
    if find_spec("triton") is None:
        missing.append("Triton, which is not installed: pip install triton")
    if not torch.cuda.is_available():
        missing.append("an NVIDIA GPU, and PyTorch sees none")
    elif torch.cuda.get_device_capability() < (8, 0):
        missing.append("a GPU of compute capability 8.0 or higher")
    if missing:
        raise ConfigError(f"kernels='fused' needs {'; and '.join(missing)}. kernels='auto' does without")


def suits(kernels: str, x: Tensor, model: nn.Module) -> bool:
    """Tell whether steps on ``x`` go through ``preact_conv``: training in bfloat16 on a GPU, nobody looking inside.

    Compilers and tracers, functorch and forward hooks of ``model``'s modules see the plain path.
    """
    if kernels == "plain" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if not x.is_cuda or x.dtype != torch.bfloat16 or torch.jit.is_tracing() or type(x) is not Tensor:  # type: ignore[attr-defined, no-untyped-call]
        return False
    if torch._C._are_functorch_transforms_active():  # noqa: SLF001  # torch's own Function.apply asks the same
        return False
    few = x.numel() // x.shape[1] < AUTO_PIXELS
    if kernels == "auto" and (few or torch.cuda.get_device_capability(x.device) != MEASURED):
        return False
    if find_spec("triton") is None or not can_start(x.device):
        return False
    inner = (module for module in model.modules() if module is not model)
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in inner)  # noqa: SLF001


@cache
def can_start(device: torch.device) -> bool:
    """Tell whether Triton starts a kernel on ``device``; where it cannot, as without a C compiler, say so once."""
    try:
        from resnetv2.kernels import triton_norm

        triton_norm.moments(torch.zeros(1, 16, device=device))
    except Exception as error:  # noqa: BLE001  whatever hinders Triton, the plain path is there
        talk().print(
            f"Triton cannot start kernels here ({first_line(error)}): training goes without fused ones", soft_wrap=True
        )
        return False
    return True


def is_plain_step(norm: nn.Module | None, convs: Sequence[nn.Module]) -> bool:
    """Tell whether these modules are a step of ``preact_conv``: trainable batch norm, convolutions without bias."""
    if type(norm) is not nn.BatchNorm2d or not norm.training or not norm.affine or not norm.track_running_stats:
        return False
    if norm.momentum is None or not (norm.weight.requires_grad and norm.bias.requires_grad):
        return False
    for conv in convs:
        if not isinstance(conv, nn.Conv2d) or conv.bias is not None or not conv.weight.requires_grad:
            return False
    return True


def choose(x: Tensor, convs: Sequence[nn.Conv2d], add: bool) -> list[Choice]:
    """Return how each convolution is computed: the faster way, measured on an H200 at 224 pixels and 256 pictures.

    The library's convolutions win where a kernel is 3x3, where two convolutions share the activation, and where the
    map has few pixels and many channels. See ``BENCHMARKS.md``.
    """
    conv, pixels = convs[0], x.shape[2] * x.shape[3]
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1)
    c, k = conv.in_channels, conv.out_channels
    if len(convs) > 1 or not pointwise or c % 16 or k % 16 or pixels < 100:
        return [LIBRARY] * len(convs)
    forward = (NARROW if k == 64 else WIDE) if c > k else None
    if add and c == 64:
        forward = SHALLOW
    return [Choice(forward, WIDE if c > k or pixels > 400 else None)]


def preact_conv(
    norm: nn.Module | None,
    x: Tensor,
    moments: Moments | None,
    convs: Sequence[nn.Conv2d],
    add: Tensor | None = None,
    *,
    passes_x: bool = False,
    products: bool = True,
) -> tuple[list[Tensor], Moments, Tensor | None]:
    """Return ``conv(relu(norm(x)))`` for each of ``convs``, the first plus ``add``, and its moments.

    Args:
        norm: a batch norm that ``is_plain_step``.
        x: (N, C, H, W); ``moments`` are its statistics, which are gathered where they are None.
        convs: square, without bias, groups or dilation.
        add: (N, K, h, w).
        passes_x: return ``x``, too, for a shortcut whose gradient is then added on the way; None otherwise.
        products: let ``choose`` take our matrix products, too. They are faster by themselves, but take so long to start
            that a step is faster for them in a CUDA graph alone.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"a pre-activation step begins with BatchNorm2d, not {norm!r}")
    x = x.contiguous(memory_format=torch.channels_last)
    add = None if add is None else add.contiguous(memory_format=torch.channels_last)
    choices = choose(x, convs, add is not None) if products else [LIBRARY] * len(convs)
    step = Step(norm, convs, choices, moments, passes_x)
    *ys, part, rows, passed = PreactConv.apply(step, x, norm.weight, norm.bias, add, *(conv.weight for conv in convs))  # type: ignore[no-untyped-call]
    return ys, Moments(part, rows), passed


class PreactConv(torch.autograd.Function):
    """``conv(relu(norm(x)))`` of a channels_last map for one convolution or several.

    Returns the maps, then moments of the first, then ``x`` itself where it goes on to a shortcut.
    """

    @staticmethod
    def forward(
        ctx: Any, step: Step, x: Tensor, scale: Tensor, shift: Tensor, add: Tensor | None, *weights: Tensor
    ) -> tuple[Any, ...]:
        from resnetv2.kernels import triton_norm

        pixels = flatten(x)
        moments = step.moments or Moments(*triton_norm.moments(pixels)[1:])
        norm = _update(step.norm, moments, pixels.shape[0], scale, shift)
        kernels = [w.to(x.dtype, memory_format=torch.channels_last) for w in weights]
        activation = None
        if any(choice.forward is None for choice in step.choices):
            activation = unflatten(triton_norm.apply(pixels, norm), x)
        shortcuts = [add if add is None else flatten(add), *[None] * (len(kernels) - 1)]
        found = [
            _convolve(x, activation, norm, *operands)
            for operands in zip(step.convs, step.choices, kernels, shortcuts, strict=True)
        ]
        gathered = found[0][1]
        ctx.step = step._replace(moments=None)
        ctx.save_for_backward(x, norm, *kernels)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gathered.part)
        return (*(y for y, _ in found), gathered.part, gathered.rows, x.view_as(x) if step.passes_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        from resnetv2.kernels import triton_norm

        x, norm, *kernels = ctx.saved_tensors
        step: Step = ctx.step
        ours = [_as_map(slope, x.dtype) for slope in slopes[: len(kernels)]]
        through = _as_map(slopes[-1], x.dtype)
        g, sums, weight_gradients = _gradients(x, norm, kernels, ours, step)
        dx = triton_norm.gradient(g, flatten(x), norm, sums, None if through is None else flatten(through))
        return (
            None,
            unflatten(dx, x),
            sums[1],
            sums[0],
            ours[0] if ctx.needs_input_grad[4] else None,
            *weight_gradients,
        )


def flatten(x: Tensor) -> Tensor:
    """Return a channels_last map (N, C, H, W) as the matrix (N·H·W, C) that it is in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def unflatten(pixels: Tensor, like: Tensor) -> Tensor:
    """Return a matrix (N·H·W, C) as the channels_last map (N, C, H, W) with the pixels of ``like``."""
    n, _, h, w = like.shape
    return pixels.view(n, h, w, -1).permute(0, 3, 1, 2)


def _as_map(slope: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if slope is None else slope.to(dtype).contiguous(memory_format=torch.channels_last)


def _update(norm: nn.BatchNorm2d, moments: Moments, m: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Return scale, shift, mean and 1 / std, (4, C); update running statistics as the module does it in training."""
    from resnetv2.kernels import triton_norm

    if m < 2:
        raise ValueError(f"batch norm in training needs more than one value for each of {norm.num_features} channels")
    running = None
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        running = norm.running_mean, norm.running_var
        norm.num_batches_tracked.add_(1)
    return triton_norm.combine_moments(*moments, m, weight, bias, norm.eps, running, norm.momentum or 0.0)


def _convolve(
    x: Tensor,
    activation: Tensor | None,
    norm: Tensor,
    conv: nn.Conv2d,
    choice: Choice,
    kernel: Tensor,
    add: Tensor | None,
) -> tuple[Tensor, Moments]:
    """Return a convolution of the activation, plus ``add``, and the moments of the sum."""
    from resnetv2.kernels import triton_gemm, triton_norm

    if choice.forward is not None:
        pixels, part, rows = triton_gemm.forward(flatten(x), norm, flatten_kernel(kernel), add, choice.forward)
        return unflatten(pixels, x), Moments(part, rows)
    y = F.conv2d(activation, kernel, None, conv.stride, conv.padding)  # type: ignore[arg-type]
    pixels, part, rows = triton_norm.moments(flatten(y), add)
    return unflatten(pixels, y), Moments(part, rows)


def flatten_kernel(kernel: Tensor) -> Tensor:
    """Return a 1x1 kernel (K, C, 1, 1) as a matrix (K, C)."""
    return kernel.reshape(kernel.shape[0], kernel.shape[1])


def _gradients(
    x: Tensor, norm: Tensor, kernels: Sequence[Tensor], slopes: Sequence[Tensor | None], step: Step
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return the gradient after norm and ReLU (M, C), its sums where ReLU passed, and the gradients of kernels."""
    from resnetv2.kernels import triton_gemm, triton_norm

    pixels = flatten(x)
    activation: Tensor | None = None
    total: Tensor | None = None
    weights: list[Tensor | None] = []
    for conv, choice, kernel, slope in zip(step.convs, step.choices, kernels, slopes, strict=True):
        if slope is None:
            weights.append(None)
            continue
        if choice.weight_gradient is not None:
            matrix = triton_gemm.weight_gradient(flatten(slope), pixels, norm, choice.weight_gradient, PROGRAMS)
            weights.append(matrix.view(kernel.shape))
        elif activation is None:
            activation = unflatten(triton_norm.apply(pixels, norm), x)
        dx, dweight = _library_gradients(activation, x, kernel, slope, conv, choice.weight_gradient is None)
        total = flatten(dx) if total is None else total.add_(flatten(dx))
        if dweight is not None:
            weights.append(dweight)
    if total is None:
        total = torch.zeros_like(pixels)
    return total, triton_norm.reduce(total, pixels, norm), weights


def _library_gradients(
    activation: Tensor | None, x: Tensor, kernel: Tensor, slope: Tensor, conv: nn.Conv2d, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return PyTorch's gradients of the activation and, where needed, of the kernel."""
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        slope,
        x if activation is None else activation,  # of x, the shape alone is used
        kernel,
        bias_sizes=None,
        stride=list(conv.stride),
        padding=list(conv.padding),
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[True, needs_weight, False],
    )
    return dx, dweight
