"""Batch norm and ReLU of a training step on GPUs, in passes that read each map once.

A map is a matrix of M = N·H·W pixels by C channels (channels_last memory). What one pass learns of a channel is written
per tile of rows and combined by a second, small kernel in a fixed order: there are no atomic additions, so that the
same input gives the same bits. All arithmetic is float32.

The plain path is ``torch.nn.functional.batch_norm`` and ``relu``; ``tests/test_kernels_fused.py`` compares with it in
float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 512  # pixels whose statistics are gathered by one program of an elementwise kernel
_BLOCK_M, _BLOCK_C = 64, 64


@triton.jit
def preactivate(x, scale, shift):
    """Return ``x * scale + shift`` in float32: the normalised value, before ReLU.

    One place, so that every kernel draws the same line between what ReLU passes and what it does not.
    """
    return x.to(tl.float32) * scale + shift


@triton.jit
def _load_norm(norm_ptr, channels, inside, c):
    """Return scale, shift, mean and 1 / std of some channels, from what ``combine_moments`` returns."""
    scale = tl.load(norm_ptr + channels, mask=inside, other=0.0)
    shift = tl.load(norm_ptr + c + channels, mask=inside, other=0.0)
    mean = tl.load(norm_ptr + 2 * c + channels, mask=inside, other=0.0)
    rstd = tl.load(norm_ptr + 3 * c + channels, mask=inside, other=0.0)
    return scale[None, :], shift[None, :], mean[None, :], rstd[None, :]


@triton.jit(do_not_specialize=["m", "tiles"])
def _add_moments(
    x_ptr, other_ptr, y_ptr, part_ptr, m, c, tiles,
    ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < c
    first = tile.to(tl.int64) * ROWS
    # sums of differences from the tile's first pixel: squares of raw values would lose a small variance in a large mean
    origin = tl.load(x_ptr + first * c + channels, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        origin += tl.load(other_ptr + first * c + channels, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    square = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in range(0, ROWS, BLOCK_M):
        rows = first + step + tl.arange(0, BLOCK_M)
        mask = (rows < m)[:, None] & inside[None, :]
        place = rows[:, None] * c + channels[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if ADD:
            y = (x + tl.load(other_ptr + place, mask=mask, other=0.0).to(tl.float32)).to(y_ptr.dtype.element_ty)
            tl.store(y_ptr + place, y, mask=mask)
            x = y.to(tl.float32)
        d = tl.where(mask, x - origin[None, :], 0.0)
        total += d
        square += d * d
    count = tl.minimum(m - first, ROWS).to(tl.float32)
    s = tl.sum(total, axis=0)
    q = tl.sum(square, axis=0)
    out = part_ptr + channels.to(tl.int64) * tiles + tile
    tl.store(out, origin + s / count, mask=inside)
    tl.store(out + tiles.to(tl.int64) * c, tl.maximum(q - s * s / count, 0.0), mask=inside)


@triton.jit(do_not_specialize=["m", "tiles", "rows"])
def _combine_moments(
    part_ptr, weight_ptr, bias_ptr, running_mean_ptr, running_var_ptr, out_ptr, m, c, tiles, rows, eps, momentum,
    TRACK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    means = part_ptr + channel.to(tl.int64) * tiles
    squares = means + tiles.to(tl.int64) * c
    total = tl.zeros((BLOCK,), tl.float32)
    origin = tl.load(means)
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        count = tl.maximum(tl.minimum(m - tile.to(tl.int64) * rows, rows), 0).to(tl.float32)
        total += count * (tl.load(means + tile, mask=tile < tiles, other=0.0) - origin)
    mean = origin + tl.sum(total, axis=0) / m
    spread = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        count = tl.maximum(tl.minimum(m - tile.to(tl.int64) * rows, rows), 0).to(tl.float32)
        d = tl.load(means + tile, mask=tile < tiles, other=0.0) - mean
        spread += tl.where(tile < tiles, tl.load(squares + tile, mask=tile < tiles, other=0.0) + count * d * d, 0.0)
    total_square = tl.sum(spread, axis=0)
    rstd = 1.0 / tl.sqrt(total_square / m + eps)
    scale = tl.load(weight_ptr + channel).to(tl.float32) * rstd
    tl.store(out_ptr + channel, scale)
    tl.store(out_ptr + c + channel, tl.load(bias_ptr + channel).to(tl.float32) - mean * scale)
    tl.store(out_ptr + 2 * c + channel, mean)
    tl.store(out_ptr + 3 * c + channel, rstd)
    if TRACK:
        old_mean, old_var = tl.load(running_mean_ptr + channel), tl.load(running_var_ptr + channel)
        tl.store(running_mean_ptr + channel, old_mean + momentum * (mean - old_mean))
        tl.store(running_var_ptr + channel, old_var + momentum * (total_square / (m - 1) - old_var))


@triton.jit(do_not_specialize=["m"])
def _apply(x_ptr, norm_ptr, y_ptr, m, c, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < c
    mask = (rows < m)[:, None] & inside[None, :]
    place = rows[:, None] * c + channels[None, :]
    scale = tl.load(norm_ptr + channels, mask=inside, other=0.0)
    shift = tl.load(norm_ptr + c + channels, mask=inside, other=0.0)
    z = preactivate(tl.load(x_ptr + place, mask=mask, other=0.0), scale[None, :], shift[None, :])
    # not tl.maximum(z, 0), which would turn NaN into 0: F.relu keeps it
    tl.store(y_ptr + place, tl.where(z <= 0, 0.0, z).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["m", "tiles"])
def _reduce(
    slope_ptr, x_ptr, norm_ptr, part_ptr, m, c, tiles,
    ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < c
    scale, shift, mean, rstd = _load_norm(norm_ptr, channels, inside, c)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    product = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in range(0, ROWS, BLOCK_M):
        rows = tile.to(tl.int64) * ROWS + step + tl.arange(0, BLOCK_M)
        mask = (rows < m)[:, None] & inside[None, :]
        place = rows[:, None] * c + channels[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        slope = tl.load(slope_ptr + place, mask=mask, other=0.0).to(tl.float32)
        g = tl.where(preactivate(x, scale, shift) <= 0, 0.0, slope)
        total += g
        product += g * ((x - mean) * rstd)
    out = part_ptr + channels.to(tl.int64) * tiles + tile
    tl.store(out, tl.sum(total, axis=0), mask=inside)
    tl.store(out + tiles.to(tl.int64) * c, tl.sum(product, axis=0), mask=inside)


@triton.jit(do_not_specialize=["m"])
def _gradient(
    slope_ptr, x_ptr, norm_ptr, sums_ptr, other_ptr, out_ptr, m, c,
    ADD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < c
    mask = (rows < m)[:, None] & inside[None, :]
    place = rows[:, None] * c + channels[None, :]
    scale, shift, mean, rstd = _load_norm(norm_ptr, channels, inside, c)
    total = (tl.load(sums_ptr + channels, mask=inside, other=0.0) / m)[None, :]
    product = (tl.load(sums_ptr + c + channels, mask=inside, other=0.0) / m)[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    slope = tl.load(slope_ptr + place, mask=mask, other=0.0).to(tl.float32)
    g = tl.where(preactivate(x, scale, shift) <= 0, 0.0, slope)
    d = scale * (g - total - (x - mean) * (rstd * product))
    if ADD:
        d += tl.load(other_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, d.to(out_ptr.dtype.element_ty), mask=mask)


def moments(x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
    """Return a map (M, C), or its sum with ``add``, and each channel's mean and sum of squared deviations.

    These are (2, C, tiles) float32 for tiles of the returned number of rows; the last may hold fewer.
    """
    m, c = x.shape
    y = x if add is None else torch.empty_like(x)
    tiles = triton.cdiv(m, ROWS)
    part = torch.empty(2, c, tiles, device=x.device, dtype=torch.float32)
    grid = (tiles, triton.cdiv(c, _BLOCK_C))
    _add_moments[grid](x, x if add is None else add, y, part, m, c, tiles, add is not None, ROWS, _BLOCK_M, _BLOCK_C)
    return y, part, ROWS


def combine_moments(
    part: Tensor, rows: int, m: int, weight: Tensor, bias: Tensor, eps: float,
    running: tuple[Tensor, Tensor] | None = None, momentum: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return (4, C) float32 of M pixels whose tiles of ``rows`` pixels gave ``part``: scale, shift, mean and 1 / std.

    ``x * scale + shift`` is the normalised value, with the biased variance. ``running`` mean and variance (C,) float32
    are updated in place as ``torch.nn.BatchNorm2d`` does it, with the unbiased variance.
    """
    _, c, tiles = part.shape
    out = torch.empty(4, c, device=part.device, dtype=torch.float32)
    mean, var = (out, out) if running is None else running
    _combine_moments[(c,)](
        part, weight, bias, mean, var, out, m, c, tiles, rows, eps, momentum, running is not None, 512
    )  # fmt: skip
    return out


def apply(x: Tensor, norm: Tensor) -> Tensor:
    """Return ``relu(x * scale + shift)`` of a map (M, C) in its type, with ``norm`` from ``combine_moments``."""
    m, c = x.shape
    y = torch.empty_like(x)
    _apply[(triton.cdiv(m, _BLOCK_M), triton.cdiv(c, _BLOCK_C))](x, norm, y, m, c, _BLOCK_M, _BLOCK_C)
    return y


def reduce(slope: Tensor, x: Tensor, norm: Tensor) -> Tensor:
    """Return (2, C): sums over M of g and of g times the normalised x, g being ``slope`` (M, C) where ReLU passed."""
    m, c = x.shape
    tiles = triton.cdiv(m, ROWS)
    part = torch.empty(2, c, tiles, device=x.device, dtype=torch.float32)
    _reduce[(tiles, triton.cdiv(c, _BLOCK_C))](slope, x, norm, part, m, c, tiles, ROWS, _BLOCK_M, _BLOCK_C)
    return part.sum(-1)


def gradient(slope: Tensor, x: Tensor, norm: Tensor, sums: Tensor, add: Tensor | None = None) -> Tensor:
    """Return the gradient of a map (M, C) before norm and ReLU from ``slope``, that after them, and ``add`` to it.

    ``sums`` are those of ``reduce``: the gradients of the norm's bias and weight.
    """
    m, c = x.shape
    out = torch.empty_like(x)
    grid = (triton.cdiv(m, _BLOCK_M), triton.cdiv(c, _BLOCK_C))
    other = x if add is None else add
    _gradient[grid](slope, x, norm, sums, other, out, m, c, add is not None, _BLOCK_M, _BLOCK_C)
    return out
