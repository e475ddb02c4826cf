"""Activations by themselves with their derivatives, and sums over axes.

Tensors come as at most four axes, sorted by stride and merged where they can be (fastconv/triton/axes.py), so that a
dense tensor of any format is one axis of unit stride.
"""

import triton.language as tl

from .activations import activate, derivative, second_derivative
from .mode import bound, device, kernel, narrow, sum_over, widen


@device
def coordinates(i, n1, n2, n3, AXES: tl.constexpr):
    """The four coordinates of flat index i; AXES counts the last ones that are there."""
    a, b, c = i * 0, i * 0, i * 0
    d = i
    if AXES > 1:
        c = d // n3
        d = d - c * n3
    if AXES > 2:
        b = c // n2
        c = c - b * n2
    if AXES > 3:
        a = b // n1
        b = b - a * n1
    return a, b, c, d


@kernel
def activation(
    x, y, alpha, elements, n1, n2, n3, xs_0, xs_1, xs_2, xs_3, ys_0, ys_1, ys_2, ys_3, as_0, as_1, as_2, as_3,
    ACT: tl.constexpr, PARAM: tl.constexpr, ACC: tl.constexpr, AXES: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """y = act(x)"""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    there = i < elements
    a, b, c, d = coordinates(i, n1, n2, n3, AXES)
    v = widen(tl.load(x + (a * xs_0 + b * xs_1 + c * xs_2 + d * xs_3), mask=there, other=0.0), ACC)
    slope = v
    if alpha is not None:
        slope = widen(tl.load(alpha + (a * as_0 + b * as_1 + c * as_2 + d * as_3), mask=there, other=0.0), ACC)
    v = activate(v, slope, ACT, PARAM, ACC)
    tl.store(y + (a * ys_0 + b * ys_1 + c * ys_2 + d * ys_3), narrow(v, y.dtype.element_ty), mask=there)


@kernel
def activation_backward(
    dy, x, dx, alpha, elements, n1, n2, n3, ds_0, ds_1, ds_2, ds_3, xs_0, xs_1, xs_2, xs_3, ys_0, ys_1, ys_2, ys_3,
    as_0, as_1, as_2, as_3,
    ORDER: tl.constexpr, ACT: tl.constexpr, PARAM: tl.constexpr, ACC: tl.constexpr, AXES: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = dy * act'(x), or dy * act''(x) for ORDER 2."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    there = i < elements
    a, b, c, d = coordinates(i, n1, n2, n3, AXES)
    g = widen(tl.load(dy + (a * ds_0 + b * ds_1 + c * ds_2 + d * ds_3), mask=there, other=0.0), ACC)
    v = widen(tl.load(x + (a * xs_0 + b * xs_1 + c * xs_2 + d * xs_3), mask=there, other=0.0), ACC)
    slope = v
    if alpha is not None:
        slope = widen(tl.load(alpha + (a * as_0 + b * as_1 + c * as_2 + d * as_3), mask=there, other=0.0), ACC)
    if ORDER == 2:
        v = g * second_derivative(v, ACT, PARAM, ACC)
    else:
        rate = derivative(v, slope, ACT, PARAM, ACC)
        v = g * rate
        if ACT == "relu" or ACT == "relu6" or ACT == "hardsigmoid":
            v = tl.where(rate == 0, 0.0, v)  # a selection: 0 even where dy is Inf or NaN, as in torch
    tl.store(dx + (a * ys_0 + b * ys_1 + c * ys_2 + d * ys_3), narrow(v, dx.dtype.element_ty), mask=there)


@kernel
def reduce(
    x, factor, y, outputs, summed, run, divide_by, n1, n2, n3, k1, k2, k3,
    xs_0, xs_1, xs_2, xs_3, xr_0, xr_1, xr_2, xr_3, fs_0, fs_1, fs_2, fs_3, fr_0, fr_1, fr_2, fr_3, ys_split,
    KIND: tl.constexpr, AXES: tl.constexpr, SUMMED_AXES: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[o] = sum over i of x[o, i], over divide_by. KIND says of what where there is a factor: the "product" with it,
    the "square" of the difference, or the product where x <= 0, which is PReLU's "slope" gradient.

    Axes of the outputs have strides xs, the summed ones xr. A program adds one run of the summed axis in order; with
    several runs y is a workspace, and a second launch adds the runs up.
    """
    pid = tl.program_id(0)
    split = tl.program_id(1)
    if WIDE:
        pid = pid.to(tl.int64)
    o = pid * BLOCK_N + tl.arange(0, BLOCK_N)
    wanted = (o < outputs)[None, :]
    a, b, c, d = coordinates(o, n1, n2, n3, AXES)
    base = (a * xs_0 + b * xs_1 + c * xs_2 + d * xs_3)[None, :]
    other = (a * fs_0 + b * fs_1 + c * fs_2 + d * fs_3)[None, :]
    first = split * run
    if WIDE:
        first = first.to(tl.int64)
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for start in range(0, bound(run), BLOCK_M):
        i = first + start + tl.arange(0, BLOCK_M)
        mask = (i < summed)[:, None] & wanted
        e, f, g, h = coordinates(i, k1, k2, k3, SUMMED_AXES)
        term = (e * xr_0 + f * xr_1 + g * xr_2 + h * xr_3)[:, None]
        value = widen(tl.load(x + (base + term), mask=mask, other=0.0), ACC)
        if factor is not None:
            term = (e * fr_0 + f * fr_1 + g * fr_2 + h * fr_3)[:, None]
            times = tl.load(factor + (other + term), mask=mask, other=0.0)
            times = widen(times, ACC)
            if KIND == "square":
                value = (value - times) * (value - times)
            else:
                value = tl.where((KIND == "slope") & (value > 0), 0.0, value * times)
            value = tl.where(mask, value, 0.0)
        acc += value
    total = sum_over(acc, 0) / divide_by
    tl.store(y + split * ys_split + o, narrow(total, y.dtype.element_ty), mask=o < outputs)
