"""BatchNorm with residual and activation: y = act((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] + residual).

A tile is BLOCK_M pixels by BLOCK_N channels. Sums over a channel are taken by kernels/elementwise.py.
"""

import triton.language as tl

from .activations import derivative, epilogue
from .conv import pixel
from .mode import device, kernel, narrow, widen


@device
def place(rows, channels, P, Q, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(n, k, p, q) of a program's elements, which of them exist, and which channels."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    blocks_n = (channels + BLOCK_N - 1) // BLOCK_N
    m = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    k = (pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    n, p, q = pixel(m, P, Q)
    return n[:, None], k, p[:, None], q[:, None], (m < rows)[:, None] & (k < channels), k < channels


@device
def normal(x, where, mean, var, k, mask, wanted, EPS: tl.constexpr, ACC: tl.constexpr):
    """(x - mean) / sqrt(var + eps), and the last factor by itself."""
    factor = 1.0 / tl.sqrt(widen(tl.load(var + k, mask=wanted, other=1.0), ACC) + EPS)
    centred = widen(tl.load(x + where, mask=mask, other=0.0), ACC)
    centred -= widen(tl.load(mean + k, mask=wanted, other=0.0), ACC)
    return centred * factor, factor


@kernel
def norm_act(
    x, y, mean, var, weight, bias, residual, alpha, rows, channels, P, Q,
    xs_n, xs_k, xs_p, xs_q, ys_n, ys_k, ys_p, ys_q, rs_n, rs_k, rs_p, rs_q, as_n, as_k, as_p, as_q,
    EPS: tl.constexpr, ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Forward: weight and bias are the epilogue's scale and shift."""
    n, k, p, q, mask, wanted = place(rows, channels, P, Q, WIDE, BLOCK_M, BLOCK_N)
    z, _ = normal(x, n * xs_n + k * xs_k + p * xs_p + q * xs_q, mean, var, k, mask, wanted, EPS, ACC)
    z = epilogue(
        z, n, k, p, q, mask, wanted, None, weight, bias, residual, rs_n, rs_k, rs_p, rs_q,
        alpha, as_n, as_k, as_p, as_q, ACT, PARAM, ALPHA, ACC,
    )  # fmt: skip
    tl.store(y + (n * ys_n + k * ys_k + p * ys_p + q * ys_q), narrow(z, y.dtype.element_ty), mask=mask)


@kernel
def norm_gradient(
    dy, x, dz, normals, dresidual, mean, var, weight, bias, residual, alpha, rows, channels, P, Q,
    ds_n, ds_k, ds_p, ds_q, xs_n, xs_k, xs_p, xs_q, ys_n, ys_k, ys_p, ys_q, rs_n, rs_k, rs_p, rs_q,
    as_n, as_k, as_p, as_q,
    EPS: tl.constexpr, ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dz = dy * act'(z) and the normalised x, in the type of sums; dz again as the residual's gradient."""
    n, k, p, q, mask, wanted = place(rows, channels, P, Q, WIDE, BLOCK_M, BLOCK_N)
    own, _ = normal(x, n * xs_n + k * xs_k + p * xs_p + q * xs_q, mean, var, k, mask, wanted, EPS, ACC)
    z = epilogue(
        own, n, k, p, q, mask, wanted, None, weight, bias, residual, rs_n, rs_k, rs_p, rs_q,
        None, 0, 0, 0, 0, "identity", 0.0, "none", ACC,
    )  # fmt: skip
    slope = z
    if ALPHA == "channel":
        slope = widen(tl.load(alpha + k * as_k, mask=wanted, other=0.0), ACC)
    elif ALPHA == "full":
        slope = widen(tl.load(alpha + (n * as_n + k * as_k + p * as_p + q * as_q), mask=mask, other=0.0), ACC)
    g = widen(tl.load(dy + (n * ds_n + k * ds_k + p * ds_p + q * ds_q), mask=mask, other=0.0), ACC)
    rate = derivative(z, slope, ACT, PARAM, ACC)
    g = g * rate
    if ACT == "relu" or ACT == "relu6" or ACT == "hardsigmoid":
        g = tl.where(rate == 0, 0.0, g)
    where = n * ys_n + k * ys_k + p * ys_p + q * ys_q
    tl.store(dz + where, g, mask=mask)
    tl.store(normals + where, own, mask=mask)
    if dresidual is not None:
        tl.store(dresidual + where, narrow(g, dresidual.dtype.element_ty), mask=mask)


@kernel
def norm_input_grad(
    dz, normals, dx, var, weight, dweight, dbias, rows, channels, P, Q, pixels, ys_n, ys_k, ys_p, ys_q,
    EPS: tl.constexpr, TRAINING: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx = (dz - (dbias + normal * dweight) / pixels) * weight / sqrt(var + eps); without batch statistics only dz."""
    n, k, p, q, mask, wanted = place(rows, channels, P, Q, WIDE, BLOCK_M, BLOCK_N)
    where = n * ys_n + k * ys_k + p * ys_p + q * ys_q
    g = tl.load(dz + where, mask=mask, other=0.0)
    if TRAINING:
        own = tl.load(normals + where, mask=mask, other=0.0)
        shared = tl.load(dbias + k, mask=wanted, other=0.0) + own * tl.load(dweight + k, mask=wanted, other=0.0)
        g -= shared / pixels
    g = g / tl.sqrt(widen(tl.load(var + k, mask=wanted, other=1.0), ACC) + EPS)
    if weight is not None:
        g *= widen(tl.load(weight + k, mask=wanted, other=0.0), ACC)
    tl.store(dx + where, narrow(g, dx.dtype.element_ty), mask=mask)
