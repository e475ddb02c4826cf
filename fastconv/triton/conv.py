"""Convolutions: conv2d, upsample_conv2d, their input gradient and the transposed convolution, as launches.

All are one form (kernels/conv.py): rows of output pixels, taps at whole input coordinates, filters with any strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import phases, tiles
from .algorithms import Problem, select
from .epilogue import PLAIN, Epilogue
from .launch import accumulate_type, is_interpreted, is_wide, launch, precision

Pair = tuple[int, int]
Ints = Sequence[int]


class Axes(NamedTuple):
    """Vertical and horizontal (mul, off, tap, up) of the taps' coordinates."""

    mul: Pair
    off: Pair
    tap: Pair
    up: Pair = (1, 1)


@dataclass(frozen=True)
class Filters:
    """A weight as the kernels read it: groups of K output channels that sum over C input channels each."""

    weight: Tensor
    groups: int
    transposed: bool  # (C, K / groups, R, S) in terms of what is summed and what comes out

    @property
    def inner(self) -> int:
        """Channels summed over, a group."""
        return self.weight.shape[0] // self.groups if self.transposed else self.weight.shape[1]

    @property
    def outer(self) -> int:
        """Channels of the output, a group."""
        return self.weight.shape[1] if self.transposed else self.weight.shape[0] // self.groups

    @property
    def strides(self) -> tuple[int, int, int, int, int]:
        """Of (group, output channel, input channel, r, s)."""
        first, second, r, s = self.weight.stride()
        group = self.weight.shape[0] // self.groups * first
        return (group, second, first, r, s) if self.transposed else (group, first, second, r, s)


def run(x: Tensor, filters: Filters, y: Tensor, axes: Axes, epilogue: Epilogue, depthwise: bool) -> None:
    """One launch of the form, into y."""
    if y.numel() == 0:  # no pixels; or no channels, which is torch's result where x has none
        return
    batch, channels, height, width = y.shape
    rows = batch * height * width
    taps = filters.weight.shape[2:]
    reach = max(
        max(abs(axes.off[i]) + y.shape[2 + i] * axes.mul[i] + taps[i] * abs(axes.tap[i]), axes.up[i] * x.shape[2 + i])
        for i in range(2)
    )
    wide = is_wide(x, y, filters.weight, epilogue.residual, epilogue.alpha, reach=max(reach, rows))
    acc = accumulate_type(x.dtype)
    tensors = (x, filters.weight, y, epilogue.bias, epilogue.scale, epilogue.shift, epilogue.residual, epilogue.alpha)
    extents = (rows, height, width, *x.shape[2:], filters.inner, filters.outer)
    strides = (*x.stride(), *filters.strides, *y.stride(), *epilogue.strides(y))
    coordinates = tuple(value for pair in axes for value in pair)
    common: dict[str, Any] = {
        **epilogue.constants(),
        "ACC": acc,
        "UPSAMPLED": axes.up != (1, 1),
        "WIDE": wide,
    }
    interpreted = is_interpreted(x)
    if depthwise:
        last = y.stride(1) == 1 and channels > 1
        block_m, block_n = tiles.pixel_tile(rows, channels, last, interpreted)
        grid = tiles.ceil_div(rows, block_m) * tiles.ceil_div(channels, block_n)
        common |= {"R": taps[0], "S": taps[1], "BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": 4}
        launch("conv", "depthwise", (grid,), x, *tensors, *extents, channels, *coordinates, *strides, **common)
        return
    reduction = filters.inner * taps[0] * taps[1]
    tile = tiles.product_tile(rows, filters.outer, reduction, x.dtype, interpreted)
    depth, flat = tiles.reduction_block(filters.inner, tile.k, interpreted)
    tile = tile._replace(k=depth)
    grid = filters.groups * tiles.ceil_div(rows, tile.m) * tiles.ceil_div(filters.outer, tile.n)
    common |= {"FLAT": flat, "PRECISION": precision(x, convolution=True), **tile.constants()}
    extents = (*extents, taps[0] * taps[1], taps[1])
    launch("conv", "implicit_gemm", (grid,), x, *tensors, *extents, *coordinates, *strides, **common)


def conv2d(x: Tensor, y: Tensor, weight: Tensor, geometry: tuple[Any, ...], epilogue: Epilogue, algo: str) -> None:
    """`geometry` is stride, padding (four sides), dilation, groups."""
    stride, padding, dilation, groups = geometry
    problem = Problem(C=x.shape[1], K=weight.shape[0], groups=groups)
    name = select("conv2d", problem, algo)
    axes = Axes(tuple(stride), (-padding[0], -padding[2]), tuple(dilation))
    run(x, Filters(weight, groups, False), y, axes, epilogue, name == "depthwise")


def upsample_conv2d(
    x: Tensor, y: Tensor, weight: Tensor, factor: Ints, geometry: tuple[Any, ...], epilogue: Epilogue, algo: str
) -> None:
    """`geometry` as for conv2d."""
    stride, padding, dilation, groups = geometry
    problem = Problem(
        C=x.shape[1], K=weight.shape[0], groups=groups, stride_h=stride[0], stride_w=stride[1],
        scale_h=factor[0], scale_w=factor[1],
    )  # fmt: skip
    name = select("upsample_conv2d", problem, algo)
    depthwise = _is_depthwise("conv2d", problem)
    if name == "gather":
        axes = Axes(tuple(stride), (-padding[0], -padding[2]), tuple(dilation), (factor[0], factor[1]))
        run(x, Filters(weight, groups, False), y, axes, epilogue, depthwise)
        return
    vertical, horizontal = (
        phases.upsampled(y.shape[2 + i], weight.shape[2 + i], factor[i], stride[i], padding[2 * i], dilation[i])
        for i in range(2)
    )
    for a in vertical:
        for b in horizontal:
            part = Filters(_summed_taps(weight, a, b, factor, dilation), groups, False)
            axes = Axes((a.mul, b.mul), (a.off, b.off), (1, 1))
            pixels = (slice(a.first, None, a.step), slice(b.first, None, b.step))
            run(x, part, y[:, :, pixels[0], pixels[1]], axes, epilogue.of_pixels(*pixels), depthwise)


def _is_depthwise(op: str, problem: Problem) -> bool:
    return select(op, problem, "") == "depthwise"


def _summed_taps(weight: Tensor, a: phases.SummedPhase, b: phases.SummedPhase, factor: Ints, dilation: Ints) -> Tensor:
    """The filter of one phase, channels_last."""
    size = (*weight.shape[:2], a.taps, b.taps)
    y = torch.empty(size, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    elements, block = y.numel(), tiles.INTERPRETED_ELEMENTS if is_interpreted(y) else 256
    launch(
        "conv", "sum_taps", (tiles.ceil_div(elements, block),), weight, weight, y, elements, size[1], a.taps, b.taps,
        a.low, b.low, *dilation, *factor, *weight.stride(), *y.stride(),
        ACC=accumulate_type(weight.dtype), R=weight.shape[2], S=weight.shape[3], BLOCK=block,
    )  # fmt: skip
    return y


def input_grad(
    op: str, dy: Tensor, dx: Tensor, weight: Tensor, geometry: tuple[Any, ...], epilogue: Epilogue, algo: str
) -> None:
    """dx of conv2d from dy; conv_transpose2d, whose input is dy. `geometry` is stride, (top, left) padding, dilation,
    groups; `weight` is (dy's channels, dx's channels a group, R, S)."""
    stride, padding, dilation, groups = geometry
    problem = Problem(C=dx.shape[1], K=weight.shape[0], groups=groups)
    depthwise = select(op, problem, algo) == "depthwise"
    found = [
        phases.transposed(dx.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    ]
    if not all(phases.are_complete(found[i], dx.shape[2 + i]) for i in range(2)):
        # Pixels that no tap reaches: sums of nothing, everywhere, and then the phases over them.
        nothing = Filters(weight[:, :, :0, :0], groups, True)
        run(dy, nothing, dx, Axes((1, 1), (0, 0), (0, 0)), epilogue, depthwise)
    for a in found[0]:
        for b in found[1]:
            taps = weight[:, :, a.tap_first :: a.tap_step, b.tap_first :: b.tap_step]
            part = dx[:, :, a.first :: a.step, b.first :: b.step]
            axes = Axes((a.mul, b.mul), (a.off, b.off), (a.tap, b.tap))
            run(dy, Filters(taps, groups, True), part, axes, epilogue, depthwise)


def conv_transpose2d(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...], algo: str
) -> None:
    """`geometry` as for input_grad."""
    epilogue = PLAIN if bias is None else Epilogue(bias=bias.contiguous())
    input_grad("conv_transpose2d", x, y, weight, geometry, epilogue, algo)


def weight_grad(dy: Tensor, x: Tensor, dw: Tensor, geometry: tuple[Any, ...], algo: str) -> None:
    """`geometry` as for conv2d."""
    stride, padding, dilation, groups = geometry
    outputs, channels, *taps = dw.shape
    problem = Problem(C=channels * groups, K=outputs, groups=groups)
    depthwise = select("conv2d_weight_grad", problem, algo) == "depthwise"
    batch, _, height, width = dy.shape
    rows, interpreted = batch * height * width, is_interpreted(x)
    positions = channels * taps[0] * taps[1]
    each = outputs // groups
    if depthwise:
        last = dy.stride(1) == 1 and outputs > 1
        block_m, block_n = tiles.pixel_tile(rows, outputs, last, interpreted)
        programs, step = positions * tiles.ceil_div(outputs, block_n), block_m
        constants: dict[str, Any] = {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": 4}
        extents: tuple[int, ...] = (channels, each, outputs, taps[1])
    else:
        tile = tiles.product_tile(each, positions, rows, x.dtype, interpreted)
        programs = groups * tiles.ceil_div(each, tile.m) * tiles.ceil_div(positions, tile.n)
        step = tile.k
        constants = {"PRECISION": precision(x, convolution=True), **tile.constants()}
        extents = (channels, each, taps[0] * taps[1], taps[1])
    runs, run_length = tiles.splits(programs, rows, step)
    wide_type = torch.float64 if dw.dtype is torch.float64 else torch.float32
    target, step_of_run = dw, 0
    if runs > 1:  # laid out as dw, so that adding up the runs goes straight through memory
        target, step_of_run = torch.empty((runs, dw.numel()), dtype=wide_type, device=dw.device), dw.numel()
    coordinates = (*stride, -padding[0], -padding[2], *dilation)
    reach = max(rows + run_length, x.shape[2] + sum(padding) + stride[0], x.shape[3] + sum(padding) + stride[1])
    launch(
        "conv_weight", "depthwise_weight_grad" if depthwise else "weight_grad", (programs, runs), x, dy, x, target,
        rows, height, width, *x.shape[2:], *extents, run_length, *coordinates, *dy.stride(), *x.stride(), step_of_run,
        *dw.stride(), ACC=accumulate_type(x.dtype), WIDE=is_wide(dy, x, target, reach=reach), **constants,
    )  # fmt: skip
    if runs > 1:
        from .reductions import add_runs

        add_runs(target, dw)
