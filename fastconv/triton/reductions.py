"""Sums over axes as launches: bias gradients, PReLU's slope gradients, the runs of a weight gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import axes, tiles
from .launch import accumulate_type, is_interpreted, is_wide, launch


def sum_axes(
    x: Tensor, summed: Sequence[int], y: Tensor, factor: Tensor | None = None, kind: str = "slope", divide_by: int = 1
) -> None:
    """y = x summed over the axes `summed`, over `divide_by`; y is dense over x's other axes in order.

    With a factor, of x's shape: the sum of x * factor ("product"), of (x - factor)^2 ("square"), or of x * factor where
    x <= 0 ("slope").
    """
    tensors = [x] if factor is None else [x, factor]
    kept = [axis for axis in range(x.dim()) if axis not in summed]
    # y's strides come first: the outputs are walked in y's order.
    sizes = [x.shape[axis] for axis in kept]
    contiguous = tuple(torch.empty(sizes, device="meta").stride())
    outputs, (_, *kept_strides) = axes.merged(
        sizes, [contiguous, *(tuple(t.stride(axis) for axis in kept) for t in tensors)]
    )
    inside, summed_strides = axes.merged(
        [x.shape[axis] for axis in summed], [tuple(t.stride(axis) for axis in summed) for t in tensors]
    )
    count, length = y.numel(), x.numel() // max(y.numel(), 1)
    # Neighbouring outputs together where they are neighbours in memory, neighbouring terms otherwise.
    across = kept_strides[0][-1] < summed_strides[0][-1] or length == 1
    elements = tiles.INTERPRETED_ELEMENTS if is_interpreted(x) else tiles.GPU_ELEMENTS
    block_n = tiles.clamped(count, 1, 64 if across else 1)
    block_m = tiles.clamped(length, 1, elements // block_n)
    programs = tiles.ceil_div(count, block_n)
    runs, run = tiles.splits(programs, length, block_m)
    target, step = y, 0
    if runs > 1:
        wide_type = torch.float64 if x.dtype is torch.float64 else torch.float32
        target, step = torch.empty((runs, count), dtype=wide_type, device=y.device), count
    strides = [axes.padded(s, 0) for i in range(len(tensors)) for s in (kept_strides[i], summed_strides[i])]
    if factor is None:
        strides += [(0,) * 4, (0,) * 4]
    launch(
        "elementwise", "reduce", (programs, runs), x, x, factor, target, count, length, run,
        1 if runs > 1 else divide_by,
        *axes.padded(outputs, 1)[1:], *axes.padded(inside, 1)[1:], *(value for four in strides for value in four), step,
        KIND=kind, AXES=len(outputs), SUMMED_AXES=len(inside), ACC=accumulate_type(x.dtype), WIDE=is_wide(x, factor),
        BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    if runs > 1:
        sum_axes(target, (0,), y, divide_by=divide_by)


def add_runs(partial: Tensor, y: Tensor) -> None:
    """y, dense in any order, = partial[0] + partial[1] + ..., partial being (runs, elements in y's memory order)."""
    flat = y.as_strided((y.numel(),), (1,), y.storage_offset())
    sum_axes(partial, (0,), flat)


def channel_sum(dy: Tensor, y: Tensor) -> None:
    sum_axes(dy, (0, 2, 3), y)


def prelu_alpha_grad(dy: Tensor, x: Tensor, y: Tensor) -> None:
    """y is of alpha's shape: one value, (C,), or the shape of a sample."""
    if y.numel() == 1:
        summed = tuple(range(x.dim()))
    elif y.dim() == 1:
        summed = tuple(axis for axis in range(x.dim()) if axis != (1 if x.dim() > 1 else 0))
    else:
        summed = tuple(range(x.dim() - y.dim()))
    if x.dim() > axes.MOST_AXES:  # more axes than the kernel has: (N, C, the rest)
        x, dy = x.contiguous().flatten(2), dy.contiguous().flatten(2)
        y = y.flatten(1) if y.dim() > 1 else y
        summed = tuple(axis for axis in summed if axis < 3)
    sum_axes(x, summed, y, factor=dy)
