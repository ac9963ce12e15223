"""Convolution in training on CPUs: in channels_last its gradients are plain matrix products.

What is computed is ``torch.nn.functional.conv2d``, up to the order of float32 sums. oneDNN computes the gradient of a
3x3 kernel's weights at half to nine tenths of the speed of the same product of matrices, copies included, and slower
still for maps of few pixels; `BENCHMARKS.md` has the figures by shape. N×H×W×C memory holds those matrices already: for
a 1x1 kernel the map itself is one, for a larger kernel the patches are copied next to each other first, a few pictures
at a time.

Shapes use N = batch, C = input channels, K = output channels, H×W = input pixels, h×w = output pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

MIN_CHANNELS = 64  # below, patches are too short to copy: the stem's 7x7x3 lose 1.6 times
SMALL_MAP = 49  # pixels, 7x7: up to here a 1x1 kernel is faster as a product in every direction
PATCH_BYTES = 1 << 24  # patches copied at a time: they should still be in the cache when they are multiplied


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return ``F.conv2d(x, weight, bias, stride, padding)``: (N, C, H, W), (K, C, k, k) -> (N, K, h, w).

    Where autograd records a float32 convolution in channels_last on the CPU, gradients are computed as matrix products.
    Anything else goes to PyTorch: other devices, types and layouts, autocast, compilers and tracers, functorch and
    forward-mode transforms, frozen weights, inference.
    """
    if not _suits(x, weight):
        return F.conv2d(x, weight, bias, stride, padding)
    y: Tensor = ProductConv2d.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return y


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Tell whether ``ProductConv2d`` computes this convolution, and faster than PyTorch."""
    plain = (Tensor, nn.Parameter)
    if type(x) not in plain or type(weight) not in plain or torch.compiler.is_compiling():
        return False
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # torch leaves it untyped
        return False
    if not torch.is_grad_enabled() or not weight.requires_grad or weight.shape[1] < MIN_CHANNELS:
        return False
    if x.device.type != "cpu" or {x.dtype, weight.dtype} != {torch.float32} or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._are_functorch_transforms_active():  # noqa: SLF001  # torch's own Function.apply asks the same
        return False
    duals = map(forward_ad.unpack_dual, (x, weight))
    if any(dual.tangent is not None for dual in duals):
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


class ProductConv2d(torch.autograd.Function):
    """A square convolution of a channels_last map whose weight gradient is a matrix product.

    Gradients of gradients are PyTorch's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride, ctx.padding = bias is not None, stride, padding
        if _is_small(x, weight, stride):
            return _small_forward(x, weight, bias, stride)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # someone will differentiate this: let PyTorch do what it knows how to
            needs = [needs_x, needs_weight, needs_bias]
            return (*_plain_gradients(x, weight, slope, stride, padding, needs), None, None)
        slope = slope.contiguous(memory_format=torch.channels_last)
        dx = dweight = dbias = None
        if needs_x and _is_small(x, weight, stride):
            dx = _small_input_gradient(x, weight, slope, stride)
        elif needs_x:
            dx = _plain_gradients(x, weight, slope, stride, padding, [True, False, False])[0]
        if needs_weight:
            dweight = weight_gradient(x, slope, weight.shape[-1], stride, padding)
        if needs_bias:
            dbias = slope.sum(dim=(0, 2, 3))
        return dx, dweight, dbias, None, None


def weight_gradient(x: Tensor, slope: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the gradient of a square kernel: maps (N, C, H, W), gradients (N, K, h, w) -> (K, C, kernel, kernel).

    All are channels_last. The oracle is ``torch.ops.aten.convolution_backward``.
    """
    pictures, slopes = x.permute(0, 2, 3, 1), slope.permute(0, 2, 3, 1)
    n, h, w, k = slopes.shape
    channels = pictures.shape[3]
    columns = kernel * kernel * channels
    step = n if kernel == 1 else max(1, PATCH_BYTES // (h * w * columns * x.element_size()))
    gradient = x.new_empty(k, columns)
    for start in range(0, n, step):
        part = slice(start, start + step)
        patches = _patches(pictures[part], kernel, stride, padding, h, w)
        # beta = 0 ignores what the new memory holds
        torch.addmm(gradient, slopes[part].reshape(-1, k).t(), patches, beta=min(start, 1), out=gradient)
    return gradient.view(k, kernel, kernel, channels).permute(0, 3, 1, 2)


def _patches(pictures: Tensor, kernel: int, stride: int, padding: int, h: int, w: int) -> Tensor:
    """Return what each output pixel sees, side by side: (n, H, W, C) -> (n * h * w, kernel * kernel * C)."""
    n, channels = pictures.shape[0], pictures.shape[3]
    if padding:
        pictures = F.pad(pictures, (0, 0, padding, padding, padding, padding))
    picture, row, pixel, channel = pictures.stride()
    shape = (n, h, w, kernel, kernel, channels)
    windows = pictures.as_strided(shape, (picture, row * stride, pixel * stride, row, pixel, channel))
    return windows.reshape(n * h * w, kernel * kernel * channels)


def _is_small(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Tell whether oneDNN is left out altogether."""
    h, w = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    return weight.shape[-1] == 1 and h * w <= SMALL_MAP


def _small_forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve with a 1x1 kernel: (N, C, H, W) -> (N, K, h, w)."""
    pixels = x.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    n, h, w, channels = pixels.shape
    shape = (n, weight.shape[0], h, w)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)  # no view: add_ follows
    rows, flat = pixels.reshape(-1, channels), y.permute(0, 2, 3, 1).view(-1, weight.shape[0])
    if bias is None:
        torch.mm(rows, weight.flatten(1).t(), out=flat)
    else:
        torch.addmm(bias, rows, weight.flatten(1).t(), out=flat)
    return y


def _small_input_gradient(x: Tensor, weight: Tensor, slope: Tensor, stride: int) -> Tensor:
    """Return the gradient of ``x`` under a 1x1 kernel: (N, K, h, w) -> (N, C, H, W)."""
    pixels = slope.permute(0, 2, 3, 1) @ weight.flatten(1)
    if stride == 1:
        return pixels.permute(0, 3, 1, 2)
    dx = torch.zeros_like(x)
    dx[:, :, ::stride, ::stride] = pixels.permute(0, 3, 1, 2)
    return dx


def _plain_gradients(
    x: Tensor, weight: Tensor, slope: Tensor, stride: int, padding: int, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return PyTorch's gradients of ``x``, ``weight`` and the bias, where needed."""
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        slope,
        x,
        weight,
        bias_sizes=[weight.shape[0]],
        stride=[stride] * 2,
        padding=[padding] * 2,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=needs,
    )
    return gradients
