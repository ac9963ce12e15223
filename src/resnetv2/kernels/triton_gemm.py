"""1x1 convolutions of a training step as matrix products that normalise, rectify, add and gather statistics on the way.

A map is a matrix of M = N·H·W pixels by channels (channels_last memory): C before the convolution, K after it. The
normalised and rectified map never exists in memory: it is computed where a product loads its operand, in the forward
pass and again for the gradient of the weight. Products accumulate in float32; statistics are those of the rounded
values that are stored. Two stages, no atomic additions: the same input gives the same bits.

The gradient of the map itself is not here: the library's product and one pass over its result were faster, at every
shape. The plain path is ``batch_norm``, ``relu`` and ``conv2d`` of ``torch.nn.functional``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnetv2.kernels.preact import Tiling
from resnetv2.kernels.triton_norm import preactivate


@triton.jit(do_not_specialize=["m", "tiles"])
def _forward(
    x_ptr, norm_ptr, w_ptr, other_ptr, y_ptr, part_ptr, m, c, k, tiles,
    ADD: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(k, BLOCK_N)
    tile = tl.program_id(0) // columns  # neighbours in time share rows of x
    first = tile.to(tl.int64) * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    outs = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows, in_outs = rows < m, outs < k
    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, c, BLOCK_K):
        channels = start + depth
        inside = (channels < c) | EVEN
        x = tl.load(x_ptr + rows[:, None] * c + channels[None, :], mask=in_rows[:, None] & inside[None, :], other=0.0)
        scale = tl.load(norm_ptr + channels, mask=inside, other=0.0)
        shift = tl.load(norm_ptr + c + channels, mask=inside, other=0.0)
        w = tl.load(w_ptr + outs[None, :] * c + channels[:, None], mask=in_outs[None, :] & inside[:, None], other=0.0)
        z = preactivate(x, scale[None, :], shift[None, :])
        acc = tl.dot(tl.where(z <= 0, 0.0, z).to(w.dtype), w, acc, input_precision="ieee")
    mask = in_rows[:, None] & in_outs[None, :]
    place = rows[:, None] * k + outs[None, :]
    if ADD:  # loaded before the product, it would take registers that the product needs, for nothing gained
        acc += tl.load(other_ptr + place, mask=mask, other=0.0).to(tl.float32)
    y = acc.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + place, y, mask=mask)
    count = tl.minimum(m - first, BLOCK_M).to(tl.float32)
    stored = tl.where(in_rows[:, None], y.to(tl.float32), 0.0)
    mean = tl.sum(stored, axis=0) / count
    d = tl.where(in_rows[:, None], stored - mean[None, :], 0.0)
    out = part_ptr + outs.to(tl.int64) * tiles + tile
    tl.store(out, mean, mask=in_outs)
    tl.store(out + tiles.to(tl.int64) * k, tl.sum(d * d, axis=0), mask=in_outs)


@triton.jit(do_not_specialize=["m", "length"])
def _weight_gradient(
    slope_ptr, x_ptr, norm_ptr, part_ptr, m, c, k, length,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # here the rows of the result are K, its columns C, and the sum runs over pixels
    columns = tl.cdiv(c, BLOCK_N)
    outs = (tl.program_id(0) // columns) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_outs, inside = outs < k, channels < c
    scale = tl.load(norm_ptr + channels, mask=inside, other=0.0)
    shift = tl.load(norm_ptr + c + channels, mask=inside, other=0.0)
    first = tl.program_id(1).to(tl.int64) * length
    last = tl.minimum(first + length, m)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, length, BLOCK_K):
        rows = first + start + tl.arange(0, BLOCK_K)
        in_rows = rows < last
        slope = tl.load(
            slope_ptr + rows[:, None] * k + outs[None, :], mask=in_rows[:, None] & in_outs[None, :], other=0.0
        )
        x = tl.load(x_ptr + rows[:, None] * c + channels[None, :], mask=in_rows[:, None] & inside[None, :], other=0.0)
        z = preactivate(x, scale[None, :], shift[None, :])
        acc = tl.dot(tl.trans(slope), tl.where(z <= 0, 0.0, z).to(slope.dtype), acc, input_precision="ieee")
    out = part_ptr + tl.program_id(1).to(tl.int64) * k * c + outs[:, None] * c + channels[None, :]
    tl.store(out, acc, mask=in_outs[:, None] & inside[None, :])


def forward(x: Tensor, norm: Tensor, weight: Tensor, add: Tensor | None, tiling: Tiling) -> tuple[Tensor, Tensor, int]:
    """Return ``relu(x * scale + shift) @ weight.T (+ add)`` and what ``triton_norm.moments`` gathers of it.

    Args:
        x: (M, C).
        norm: (4, C) float32 of ``triton_norm.combine_moments``.
        weight: (K, C) in x's type.
        add: (M, K), the shortcut.
        tiling: of the product (M, K) over C.
    """
    (m, c), k = x.shape, weight.shape[0]
    tiles = triton.cdiv(m, tiling.block_m)
    y = torch.empty(m, k, device=x.device, dtype=x.dtype)
    part = torch.empty(2, k, tiles, device=x.device, dtype=torch.float32)
    _forward[(tiles * triton.cdiv(k, tiling.block_n),)](
        x, norm, weight, y if add is None else add, y, part, m, c, k, tiles,
        add is not None, c % tiling.block_k == 0, *tiling[:3], num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return y, part, tiling.block_m


def weight_gradient(slope: Tensor, x: Tensor, norm: Tensor, tiling: Tiling, programs: int) -> Tensor:
    """Return ``slope.T @ relu(x * scale + shift)``, (K, C) float32, in about ``programs`` parts that are then added.

    ``slope`` is (M, K), ``x`` (M, C).
    """
    (m, c), k = x.shape, slope.shape[1]
    tiles = triton.cdiv(k, tiling.block_m) * triton.cdiv(c, tiling.block_n)
    splits = max(1, min(programs // tiles, triton.cdiv(m, 4 * tiling.block_k)))
    length = triton.cdiv(triton.cdiv(m, splits), tiling.block_k) * tiling.block_k
    splits = triton.cdiv(m, length)
    part = torch.empty(splits, k, c, device=x.device, dtype=torch.float32)
    _weight_gradient[(tiles, splits)](
        slope, x, norm, part, m, c, k, length, *tiling[:3], num_warps=tiling.warps, num_stages=tiling.stages
    )
    return part.sum(0)
