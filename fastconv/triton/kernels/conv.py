"""Convolution as an implicit matrix product, and as a sum of shifted images (depthwise).

A row is an output pixel (n, p, q), a column an output channel of one group. Tap (r, s) of row (p, q) reads the input at

    h = (p * mul_h + off_h + r * tap_h) // up_h,    w = (q * mul_w + off_w + s * tap_w) // up_w

or zero outside the image. conv2d has mul = stride, off = -padding, tap = dilation; upsampling divides by the factor;
the input gradient and the transposed convolution are unit-stride problems of this form, one for each phase of the
stride (fastconv/triton/phases.py). Groups, layouts, phases and slices are strides: no operand is copied.
"""

import triton.language as tl

from .activations import epilogue
from .mode import bound, device, dot, kernel, narrow, widen


@device
def pixel(rows, P, Q):
    """(n, p, q) of flat output pixels."""
    line = rows // Q
    n = line // P
    return n, line - n * P, rows - line * Q


@device
def source(base, tap, limit, up, UPSAMPLED: tl.constexpr):
    """The input coordinate that a tap reads, and whether it lies in the image."""
    u = base + tap
    i = u
    if UPSAMPLED:
        i = u // up
    return i, (u >= 0) & (i < limit)


@kernel
def implicit_gemm(
    x, w, y, bias, scale, shift, residual, alpha,
    rows, P, Q, H, W, C, K, taps, S,
    mul_h, mul_w, off_h, off_w, tap_h, tap_w, up_h, up_w,
    xs_n, xs_c, xs_h, xs_w, ws_g, ws_k, ws_c, ws_r, ws_s, ys_n, ys_k, ys_p, ys_q,
    rs_n, rs_k, rs_p, rs_q, as_n, as_k, as_p, as_q,
    ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    UPSAMPLED: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of BLOCK_M pixels by BLOCK_N channels of one group; C and K are channels a group.

    The reduction runs over (r, s, c). FLAT cuts it anywhere, for few channels; otherwise a block stays within one tap,
    so that (r, s) are scalars and a pixel's address is computed once.
    """
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_m, blocks_n = (rows + BLOCK_M - 1) // BLOCK_M, (K + BLOCK_N - 1) // BLOCK_N
    # Channels run fastest: programs at work together read the same pixels.
    column_block = pid % blocks_n
    group = pid // blocks_n // blocks_m
    row_block = pid // blocks_n - group * blocks_m
    m = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    k = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = pixel(m, P, Q)
    base_h = (p * mul_h + off_h)[:, None]
    base_w = (q * mul_w + off_w)[:, None]
    image = (n * xs_n)[:, None] + group * C * xs_c
    filters = (k * ws_k)[None, :] + group * ws_g
    there = (m < rows)[:, None]
    wanted = (k < K)[None, :]
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    blocks_c = (C + BLOCK_K - 1) // BLOCK_K
    steps = blocks_c * taps
    if FLAT:
        steps = (taps * C + BLOCK_K - 1) // BLOCK_K
    for step in range(bound(steps)):
        if FLAT:
            j = step * BLOCK_K + tl.arange(0, BLOCK_K)
            tap = j // C
            c = j - tap * C
            r = tap // S
            s = tap - r * S
            h, in_h = source(base_h, (r * tap_h)[None, :], H, up_h, UPSAMPLED)
            v, in_w = source(base_w, (s * tap_w)[None, :], W, up_w, UPSAMPLED)
            inside = there & in_h & in_w & (tap < taps)[None, :]
            summed = (tap < taps)[:, None] & wanted
            window = (r * ws_r + s * ws_s)[:, None]
        else:
            tap = step // blocks_c
            c = (step - tap * blocks_c) * BLOCK_K + tl.arange(0, BLOCK_K)
            r = tap // S
            s = tap - r * S
            h, in_h = source(base_h, r * tap_h, H, up_h, UPSAMPLED)
            v, in_w = source(base_w, s * tap_w, W, up_w, UPSAMPLED)
            inside = there & in_h & in_w & (c < C)[None, :]
            summed = (c < C)[:, None] & wanted
            window = r * ws_r + s * ws_s
        a = tl.load(x + (image + h * xs_h + v * xs_w + (c * xs_c)[None, :]), mask=inside, other=0.0)
        b = tl.load(w + ((c * ws_c)[:, None] + window + filters), mask=summed, other=0.0)
        acc = dot(a, b, acc, PRECISION)
    channel = (group * K + k)[None, :]
    n, p, q = n[:, None], p[:, None], q[:, None]
    acc = epilogue(
        acc, n, channel, p, q, there & wanted, wanted, bias, scale, shift, residual, rs_n, rs_k, rs_p, rs_q,
        alpha, as_n, as_k, as_p, as_q, ACT, PARAM, ALPHA, ACC,
    )  # fmt: skip
    where = n * ys_n + channel * ys_k + p * ys_p + q * ys_q
    tl.store(y + where, narrow(acc, y.dtype.element_ty), mask=there & wanted)


@kernel
def depthwise(
    x, w, y, bias, scale, shift, residual, alpha,
    rows, P, Q, H, W, C, K, channels,
    mul_h, mul_w, off_h, off_w, tap_h, tap_w, up_h, up_w,
    xs_n, xs_c, xs_h, xs_w, ws_g, ws_k, ws_c, ws_r, ws_s, ys_n, ys_k, ys_p, ys_q,
    rs_n, rs_k, rs_p, rs_q, as_n, as_k, as_p, as_q,
    ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr, UPSAMPLED: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of BLOCK_M pixels by BLOCK_N channels of any groups: tap by tap, no matrix instruction.

    Channel k belongs to group k // K and sums over that group's C input channels.
    """
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = pixel(m, P, Q)
    base_h = (p * mul_h + off_h)[:, None]
    base_w = (q * mul_w + off_w)[:, None]
    there = (m < rows)[:, None]
    wanted = (k < channels)[None, :]
    group = k // K
    image = (n * xs_n)[:, None] + (group * C * xs_c)[None, :]
    filters = (group * ws_g + (k - group * K) * ws_k)[None, :]
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for c in range(bound(C)):
        for r in range(R):
            h, in_h = source(base_h, r * tap_h, H, up_h, UPSAMPLED)
            for s in range(S):
                v, in_w = source(base_w, s * tap_w, W, up_w, UPSAMPLED)
                inside = there & in_h & in_w & wanted
                a = tl.load(x + (image + h * xs_h + v * xs_w + c * xs_c), mask=inside, other=0.0)
                b = tl.load(w + (filters + c * ws_c + r * ws_r + s * ws_s), mask=wanted, other=0.0)
                acc += widen(a, ACC) * widen(b, ACC)
    channel = k[None, :]
    n, p, q = n[:, None], p[:, None], q[:, None]
    acc = epilogue(
        acc, n, channel, p, q, there & wanted, wanted, bias, scale, shift, residual, rs_n, rs_k, rs_p, rs_q,
        alpha, as_n, as_k, as_p, as_q, ACT, PARAM, ALPHA, ACC,
    )  # fmt: skip
    where = n * ys_n + channel * ys_k + p * ys_p + q * ys_q
    tl.store(y + where, narrow(acc, y.dtype.element_ty), mask=there & wanted)


@kernel
def sum_taps(
    w, y, elements, C, T_H, T_W, low_h, low_w, dil_h, dil_w, up_h, up_w,
    ws_k, ws_c, ws_r, ws_s, ys_k, ys_c, ys_r, ys_s,
    ACC: tl.constexpr, R: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The filters of one phase of an upsampled convolution: taps that meet the same input pixel added up.

    y[k, c, i, j] = sum of w[k, c, r, s] with (low_h + r * dil_h) // up_h = i and (low_w + s * dil_w) // up_w = j.
    """
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = e < elements
    c = e % C  # channels fastest, as the product reads them
    e = e // C
    j = e % T_W
    e = e // T_W
    i = e % T_H
    k = e // T_H
    acc = tl.full((BLOCK,), 0.0, ACC)
    for r in range(R):
        for s in range(S):
            meets = ((low_h + r * dil_h) // up_h == i) & ((low_w + s * dil_w) // up_w == j)
            where = k * ws_k + c * ws_c + r * ws_r + s * ws_s
            acc += widen(tl.load(w + where, mask=there & meets, other=0.0), ACC)
    tl.store(y + (k * ys_k + c * ys_c + i * ys_r + j * ys_s), narrow(acc, y.dtype.element_ty), mask=there)
