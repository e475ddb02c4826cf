"""Pooling forwards and backwards, for fixed windows and for windows that share the image evenly (ADAPTIVE).

A tile is BLOCK_M pixels by BLOCK_N channels, read tap by tap. The gradients are gathered: a program owns pixels of dx
and walks the windows that hold them, so no two programs write to one place.
"""

import triton.language as tl

from .conv import pixel
from .mode import device, kernel, narrow, widen


@device
def window(i, extent, outputs, kernel_size, stride, padding, ADAPTIVE: tl.constexpr):
    """[start, end) of window i along one axis, padding included where windows are fixed."""
    start = i * stride - padding
    end = start + kernel_size
    if ADAPTIVE:
        start = i * extent // outputs
        end = ((i + 1) * extent + outputs - 1) // outputs
    return start, end


@device
def divisor(i, extent, outputs, kernel_size, stride, padding, INCLUDE: tl.constexpr, ADAPTIVE: tl.constexpr):
    """How many pixels of window i count along one axis."""
    start, end = window(i, extent, outputs, kernel_size, stride, padding, ADAPTIVE)
    if not ADAPTIVE:
        # What ceil_mode adds behind the padding never counts.
        end = tl.minimum(end, extent + padding)
        if not INCLUDE:
            start = tl.maximum(start, 0)
            end = tl.minimum(end, extent)
    return end - start


@kernel
def pool(
    x, y, indices, rows, channels, P, Q, H, W, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    xs_n, xs_c, xs_h, xs_w, ys_n, ys_k, ys_p, ys_q,
    MAX: tl.constexpr, DIVISOR: tl.constexpr, INCLUDE: tl.constexpr, ADAPTIVE: tl.constexpr, ACC: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Windows of at most R by S taps. MAX: the first of equal values, the last NaN, -inf at -1 for an empty window.

    `indices` None leaves h * W + w out; DIVISOR 0 divides by the pixels that count.
    """
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = pixel(m, P, Q)
    mask = (m < rows)[:, None] & (k < channels)[None, :]
    top, bottom = window(p, H, P, kernel_h, stride_h, pad_h, ADAPTIVE)
    left, right = window(q, W, Q, kernel_w, stride_w, pad_w, ADAPTIVE)
    image = (n * xs_n)[:, None] + (k * xs_c)[None, :]
    acc = tl.full((BLOCK_M, BLOCK_N), float("-inf") if MAX else 0.0, ACC)
    best = tl.full((BLOCK_M, BLOCK_N), -1, tl.int64)
    for r in range(R):
        h = top + r * dil_h
        for s in range(S):
            v = left + s * dil_w
            inside = (h >= 0) & (h < H) & (v >= 0) & (v < W)
            if ADAPTIVE:
                inside = inside & (h < bottom) & (v < right)
            held = inside[:, None] & mask
            value = widen(tl.load(x + (image + (h * xs_h + v * xs_w)[:, None]), mask=held, other=0.0), ACC)
            if MAX:
                better = held & ((best < 0) | (value > acc) | (value != value))
                acc = tl.where(better, value, acc)
                best = tl.where(better, (h * W + v)[:, None].to(tl.int64), best)
            else:
                acc += value
    if not MAX:
        if DIVISOR:
            acc = acc / DIVISOR
        else:
            counted = divisor(p, H, P, kernel_h, stride_h, pad_h, INCLUDE, ADAPTIVE) * divisor(
                q, W, Q, kernel_w, stride_w, pad_w, INCLUDE, ADAPTIVE
            )
            acc = acc / counted[:, None].to(ACC)
    where = (n * ys_n + p * ys_p + q * ys_q)[:, None] + (k * ys_k)[None, :]
    tl.store(y + where, narrow(acc, y.dtype.element_ty), mask=mask)
    if indices is not None:
        tl.store(indices + where, best, mask=mask)


@kernel
def pool_backward(
    dy, indices, dx, rows, channels, H, W, P, Q, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    ds_n, ds_k, ds_p, ds_q, is_n, is_k, is_p, is_q, xs_n, xs_c, xs_h, xs_w,
    MAX: tl.constexpr, DIVISOR: tl.constexpr, INCLUDE: tl.constexpr, ADAPTIVE: tl.constexpr, ACC: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx of a tile of pixels: at most R by S windows hold a pixel. MAX adds dy where the window chose it."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, h, v = pixel(m, H, W)
    mask = (m < rows)[:, None] & (k < channels)[None, :]
    # The last window that can hold the pixel; R and S count back from there.
    if ADAPTIVE:
        last_p = ((h + 1) * P - 1) // H
        last_q = ((v + 1) * Q - 1) // W
    else:
        last_p = (h + pad_h) // stride_h
        last_q = (v + pad_w) // stride_w
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for i in range(R):
        p = last_p - (R - 1) + i  # ascending: additions in the order of the definition
        top, bottom = window(p, H, P, dil_h * (kernel_h - 1) + 1, stride_h, pad_h, ADAPTIVE)
        in_p = (p >= 0) & (p < P) & (h >= top) & (h < bottom)
        for j in range(S):
            q = last_q - (S - 1) + j
            left, right = window(q, W, Q, dil_w * (kernel_w - 1) + 1, stride_w, pad_w, ADAPTIVE)
            held = (in_p & (q >= 0) & (q < Q) & (v >= left) & (v < right))[:, None] & mask
            where = (n * ds_n + p * ds_p + q * ds_q)[:, None] + (k * ds_k)[None, :]
            if MAX:
                place = (n * is_n + p * is_p + q * is_q)[:, None] + (k * is_k)[None, :]
                chosen = tl.load(indices + place, mask=held, other=-1)
                held = held & (chosen == (h * W + v)[:, None])
            g = widen(tl.load(dy + where, mask=held, other=0.0), ACC)
            if not MAX and not DIVISOR:
                counted = divisor(p, H, P, kernel_h, stride_h, pad_h, INCLUDE, ADAPTIVE) * divisor(
                    q, W, Q, kernel_w, stride_w, pad_w, INCLUDE, ADAPTIVE
                )
                g = g / tl.where(held, counted[:, None], 1).to(ACC)
            acc += g
    if DIVISOR:
        acc = acc / DIVISOR
    where = (n * xs_n + h * xs_h + v * xs_w)[:, None] + (k * xs_c)[None, :]
    tl.store(dx + where, narrow(acc, dx.dtype.element_ty), mask=mask)
