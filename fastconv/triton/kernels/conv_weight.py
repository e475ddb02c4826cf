"""Weight gradient: dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, c, h(p, r), w(q, s)].

The pixels are cut into `splits` runs; each program writes its run's sum to a slice of a float32 workspace, and
reduce.py adds the slices in order: no atomics, the same bits every time.
"""

import triton.language as tl

from .conv import pixel
from .mode import bound, dot, kernel, narrow, sum_over, widen


@kernel
def weight_grad(
    dy, x, dw, rows, P, Q, H, W, C, K, taps, S, run,
    mul_h, mul_w, off_h, off_w, tap_h, tap_w,
    ds_n, ds_k, ds_p, ds_q, xs_n, xs_c, xs_h, xs_w, ws_split, ws_k, ws_c, ws_r, ws_s,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_M filters by BLOCK_N (r, s, c) of one group, over one run of pixels; C and K are a group's."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    columns = taps * C
    blocks_m, blocks_n = (K + BLOCK_M - 1) // BLOCK_M, (columns + BLOCK_N - 1) // BLOCK_N
    tile = pid % (blocks_m * blocks_n)
    group = pid // (blocks_m * blocks_n)
    split = tl.program_id(1)
    k = tile % blocks_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tile // blocks_m * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = j // C
    c = j - tap * C
    r = tap // S
    s = tap - r * S
    first = split * run
    filters = ((group * K + k) * ds_k)[:, None]
    channel = ((group * C + c) * xs_c)[None, :]
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for start in range(0, bound(run), BLOCK_K):
        m = first + start + tl.arange(0, BLOCK_K)
        n, p, q = pixel(m, P, Q)
        there = m < rows
        a = tl.load(
            dy + (filters + (n * ds_n + p * ds_p + q * ds_q)[None, :]),
            mask=(k < K)[:, None] & there[None, :],
            other=0.0,
        )
        h = (p * mul_h + off_h)[:, None] + (r * tap_h)[None, :]
        v = (q * mul_w + off_w)[:, None] + (s * tap_w)[None, :]
        inside = (h >= 0) & (h < H) & (v >= 0) & (v < W) & there[:, None] & (j < columns)[None, :]
        b = tl.load(x + ((n * xs_n)[:, None] + channel + h * xs_h + v * xs_w), mask=inside, other=0.0)
        acc = dot(a, b, acc, PRECISION)
    where = split * ws_split + ((group * K + k) * ws_k)[:, None] + (c * ws_c + r * ws_r + s * ws_s)[None, :]
    tl.store(dw + where, narrow(acc, dw.dtype.element_ty), mask=(k < K)[:, None] & (j < columns)[None, :])


@kernel
def depthwise_weight_grad(
    dy, x, dw, rows, P, Q, H, W, C, K, channels, S, run,
    mul_h, mul_w, off_h, off_w, tap_h, tap_w,
    ds_n, ds_k, ds_p, ds_q, xs_n, xs_c, xs_h, xs_w, ws_split, ws_k, ws_c, ws_r, ws_s,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One weight position (c, r, s) of BLOCK_N channels over one run of pixels, BLOCK_M at a time."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    position = pid // blocks_n
    split = tl.program_id(1)
    k = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = position % C
    s = position // C % S
    r = position // C // S
    wanted = (k < channels)[None, :]
    channel = ((k // K * C + c) * xs_c)[None, :]
    first = split * run
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for start in range(0, bound(run), BLOCK_M):
        m = first + start + tl.arange(0, BLOCK_M)
        n, p, q = pixel(m, P, Q)
        there = (m < rows)[:, None]
        a = tl.load(
            dy + ((n * ds_n + p * ds_p + q * ds_q)[:, None] + (k * ds_k)[None, :]), mask=there & wanted, other=0.0
        )
        h = p * mul_h + off_h + r * tap_h
        v = q * mul_w + off_w + s * tap_w
        inside = ((h >= 0) & (h < H) & (v >= 0) & (v < W))[:, None] & there & wanted
        b = tl.load(x + ((n * xs_n + h * xs_h + v * xs_w)[:, None] + channel), mask=inside, other=0.0)
        acc += widen(a, ACC) * widen(b, ACC)
    total = sum_over(acc, 0)
    where = split * ws_split + k * ws_k + c * ws_c + r * ws_r + s * ws_s
    tl.store(dw + where, narrow(total, dw.dtype.element_ty), mask=k < channels)
