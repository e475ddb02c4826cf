"""Rearrangements: nearest upsampling and its transpose, im2col and col2im. One output element a lane, gathered."""

import triton.language as tl

from .conv import pixel
from .mode import bound, kernel, narrow, widen


@kernel
def upsample(
    x, y, rows, channels, P, Q, up_h, up_w, xs_n, xs_c, xs_h, xs_w, ys_n, ys_k, ys_p, ys_q,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n, c, p, q] = x[n, c, p // up_h, q // up_w]"""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = (pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    n, p, q = pixel(m, P, Q)
    mask = (m < rows)[:, None] & (k < channels)
    value = tl.load(x + ((n * xs_n + p // up_h * xs_h + q // up_w * xs_w)[:, None] + k * xs_c), mask=mask)
    tl.store(y + ((n * ys_n + p * ys_p + q * ys_q)[:, None] + k * ys_k), value, mask=mask)


@kernel
def upsample_backward(
    dy, dx, rows, channels, H, W, up_h, up_w, ds_n, ds_k, ds_p, ds_q, xs_n, xs_c, xs_h, xs_w,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[n, c, h, w] = sum of dy over the up_h by up_w block of that pixel"""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = (pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    n, h, v = pixel(m, H, W)
    mask = (m < rows)[:, None] & (k < channels)
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for i in range(bound(up_h)):
        for j in range(bound(up_w)):
            where = (n * ds_n + (h * up_h + i) * ds_p + (v * up_w + j) * ds_q)[:, None] + k * ds_k
            acc += widen(tl.load(dy + where, mask=mask, other=0.0), ACC)
    where = (n * xs_n + h * xs_h + v * xs_w)[:, None] + k * xs_c
    tl.store(dx + where, narrow(acc, dx.dtype.element_ty), mask=mask)


@kernel
def im2col(
    x, y, elements, C, R, S, P, Q, H, W, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xs_n, xs_c, xs_h, xs_w,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[n, (c * R + r) * S + s, p * Q + q] = x[n, c, p * stride - pad + r * dil, ...], y contiguous"""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    there = i < elements
    line, p, q = pixel(i, P, Q)
    column, r, s = pixel(line, R, S)
    n = column // C
    c = column - n * C
    h = p * stride_h - pad_h + r * dil_h
    v = q * stride_w - pad_w + s * dil_w
    inside = there & (h >= 0) & (h < H) & (v >= 0) & (v < W)
    value = tl.load(x + (n * xs_n + c * xs_c + h * xs_h + v * xs_w), mask=inside, other=0.0)
    tl.store(y + i, value, mask=there)


@kernel
def col2im(
    x, y, elements, C, P, Q, H, W, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, xs_n, xs_i, xs_j,
    ACC: tl.constexpr, R: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[n, c, h, w] = sum of the columns' elements that im2col reads from there, y contiguous"""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    there = i < elements
    plane, h, v = pixel(i, H, W)
    n = plane // C
    c = plane - n * C
    acc = tl.full((BLOCK,), 0.0, ACC)
    for r in range(R):
        u = h + pad_h - r * dil_h
        p = u // stride_h
        in_h = (u >= 0) & (p * stride_h == u) & (p < P)
        for s in range(S):
            t = v + pad_w - s * dil_w
            q = t // stride_w
            inside = there & in_h & (t >= 0) & (q * stride_w == t) & (q < Q)
            where = n * xs_n + ((c * R + r) * S + s) * xs_i + (p * Q + q) * xs_j
            acc += widen(tl.load(x + where, mask=inside, other=0.0), ACC)
    tl.store(y + i, narrow(acc, y.dtype.element_ty), mask=there)
