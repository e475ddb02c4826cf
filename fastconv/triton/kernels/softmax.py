"""Softmax and its gradient along one axis of a contiguous tensor, seen as (outer, extent, inner)."""

import triton.language as tl

from .mode import bound, device, kernel, max_over, narrow, sum_over, widen


@device
def lines(extent, inner, count, WIDE: tl.constexpr, BLOCK_M: tl.constexpr):
    """Offsets of the first elements of a program's lines, and which of them exist."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    line = pid * BLOCK_M + tl.arange(0, BLOCK_M)
    outer = line // inner
    return (outer * extent * inner + line - outer * inner)[:, None], (line < count)[:, None]


@kernel
def softmax(
    x, y, count, extent, inner,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """BLOCK_M lines a program: the largest value and the sum in one pass, rescaled as the largest grows; then y."""
    base, there = lines(extent, inner, count, WIDE, BLOCK_M)
    top = tl.full((BLOCK_M,), float("-inf"), ACC)
    total = tl.full((BLOCK_M,), 0.0, ACC)
    for start in range(0, bound(extent), BLOCK_N):
        i = (start + tl.arange(0, BLOCK_N))[None, :]
        v = widen(tl.load(x + (base + i * inner), mask=there & (i < extent), other=float("-inf")), ACC)
        high = tl.maximum(top, max_over(v, 1))
        # Nothing but -inf so far: no scale yet. A NaN, or -inf to the end, makes 0 / 0 below, as in torch.
        scale = tl.where(top == high, 1.0, tl.exp(top - high))
        part = tl.where(v == float("-inf"), 0.0, tl.exp(v - high[:, None]))
        total = total * scale + sum_over(part, 1)
        top = high
    for start in range(0, bound(extent), BLOCK_N):
        i = (start + tl.arange(0, BLOCK_N))[None, :]
        mask = there & (i < extent)
        v = widen(tl.load(x + (base + i * inner), mask=mask, other=0.0), ACC)
        part = tl.where(v == float("-inf"), 0.0, tl.exp(v - top[:, None]))
        tl.store(y + (base + i * inner), narrow(part / total[:, None], y.dtype.element_ty), mask=mask)


@kernel
def softmax_backward(
    dy, y, dx, count, extent, inner,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx = y * (dy - sum of dy * y)"""
    base, there = lines(extent, inner, count, WIDE, BLOCK_M)
    dots = tl.full((BLOCK_M,), 0.0, ACC)
    for start in range(0, bound(extent), BLOCK_N):
        i = (start + tl.arange(0, BLOCK_N))[None, :]
        mask = there & (i < extent)
        g = widen(tl.load(dy + (base + i * inner), mask=mask, other=0.0), ACC)
        v = widen(tl.load(y + (base + i * inner), mask=mask, other=0.0), ACC)
        dots += sum_over(g * v, 1)
    for start in range(0, bound(extent), BLOCK_N):
        i = (start + tl.arange(0, BLOCK_N))[None, :]
        mask = there & (i < extent)
        g = widen(tl.load(dy + (base + i * inner), mask=mask, other=0.0), ACC)
        v = widen(tl.load(y + (base + i * inner), mask=mask, other=0.0), ACC)
        tl.store(dx + (base + i * inner), narrow(v * (g - dots[:, None]), dx.dtype.element_ty), mask=mask)
