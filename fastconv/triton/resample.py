"""Rearrangements as launches: nearest upsampling, im2col, col2im."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import tiles
from .launch import accumulate_type, is_interpreted, is_wide, launch

Ints = Sequence[int]


def upsample(x: Tensor, y: Tensor, factor: Ints) -> None:
    rows, channels, grid, blocks = _pixels(y)
    launch(
        "resample", "upsample", (grid,), x, x, y, rows, channels, *y.shape[2:], *factor, *x.stride(), *y.stride(),
        WIDE=is_wide(x, y), **blocks,
    )  # fmt: skip


def upsample_backward(dy: Tensor, dx: Tensor, factor: Ints) -> None:
    rows, channels, grid, blocks = _pixels(dx)
    launch(
        "resample", "upsample_backward", (grid,), dx, dy, dx, rows, channels, *dx.shape[2:], *factor, *dy.stride(),
        *dx.stride(), ACC=accumulate_type(dx.dtype), WIDE=is_wide(dy, dx), **blocks,
    )  # fmt: skip


def _pixels(y: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Rows, channels, programs and blocks over y's pixels."""
    batch, channels, height, width = y.shape
    rows = batch * height * width
    block_m, block_n = tiles.pixel_tile(rows, channels, y.stride(1) == 1 and channels > 1, is_interpreted(y))
    grid = tiles.ceil_div(rows, block_m) * tiles.ceil_div(channels, block_n)
    return rows, channels, grid, {"BLOCK_M": block_m, "BLOCK_N": block_n}


def im2col(x: Tensor, y: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> None:
    outputs = [(x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    block = tiles.INTERPRETED_ELEMENTS if is_interpreted(x) else tiles.GPU_ELEMENTS
    reach = max(x.shape[2 + i] + 2 * padding[i] for i in range(2))
    launch(
        "resample", "im2col", (tiles.ceil_div(y.numel(), block),), x, x, y, y.numel(), x.shape[1], *kernel, *outputs,
        *x.shape[2:], *stride, *padding, *dilation, *x.stride(), WIDE=is_wide(x, y, reach=reach), BLOCK=block,
    )  # fmt: skip


def col2im(x: Tensor, y: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> None:
    outputs = [(y.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    block = tiles.INTERPRETED_ELEMENTS if is_interpreted(x) else tiles.GPU_ELEMENTS
    reach = max(y.shape[2 + i] + padding[i] + kernel[i] * dilation[i] for i in range(2))
    launch(
        "resample", "col2im", (tiles.ceil_div(y.numel(), block),), x, x, y, y.numel(), y.shape[1], *outputs,
        *y.shape[2:], *stride, *padding, *dilation, *x.stride(), ACC=accumulate_type(x.dtype), R=kernel[0],
        S=kernel[1], WIDE=is_wide(x, y, reach=reach), BLOCK=block,
    )  # fmt: skip
