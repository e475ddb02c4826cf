"""Matrix product with its epilogue: y[b] = act(a[b] * b[b] + bias + residual), any strides on every operand."""

import triton.language as tl

from .activations import epilogue
from .mode import bound, dot, kernel, narrow


@kernel
def gemm(
    a, b, y, bias, residual, alpha, M, N, K,
    as_b, as_m, as_k, bs_b, bs_k, bs_n, ys_b, ys_m, ys_n, rs_b, rs_m, rs_n, ps_b, ps_m, ps_n,
    ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of BLOCK_M rows by BLOCK_N columns of one matrix of the batch; transposing swaps strides."""
    BAND: tl.constexpr = 8  # rows of tiles that are walked together, so that both operands stay in the L2 cache
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_m, blocks_n = (M + BLOCK_M - 1) // BLOCK_M, (N + BLOCK_N - 1) // BLOCK_N
    batch = pid // (blocks_m * blocks_n)
    tile = pid - batch * blocks_m * blocks_n
    band = tile // (BAND * blocks_n)
    height = tl.minimum(blocks_m - band * BAND, BAND)
    inside_band = tile - band * BAND * blocks_n
    m = (band * BAND + inside_band % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (inside_band // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = (m < M)[:, None], (n < N)[None, :]
    left = batch * as_b + (m * as_m)[:, None]
    right = batch * bs_b + (n * bs_n)[None, :]
    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, ACC)
    for start in range(0, bound(K), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        u = tl.load(a + (left + (k * as_k)[None, :]), mask=rows & (k < K)[None, :], other=0.0)
        v = tl.load(b + (right + (k * bs_k)[:, None]), mask=columns & (k < K)[:, None], other=0.0)
        acc = dot(u, v, acc, PRECISION)
    row, column = m[:, None], n[None, :]
    acc = epilogue(
        acc, batch, column, row, 0, rows & columns, columns, bias, None, None, residual, rs_b, rs_n, rs_m, 0,
        alpha, ps_b, ps_n, ps_m, 0, ACT, PARAM, ALPHA, ACC,
    )  # fmt: skip
    tl.store(y + (batch * ys_b + row * ys_m + column * ys_n), narrow(acc, y.dtype.element_ty), mask=rows & columns)
