"""Activations with their derivatives, and the epilogue y = act(scale[k] * (acc + bias[k]) + shift[k] + residual).

ACT is the activation's name, PARAM the number that leaky_relu and elu take; `a` is PReLU's slope, a tensor. Selections
are written as comparisons that a NaN fails, so that it comes through as torch lets it through.
"""

import triton.language as tl

from .mode import device, widen


@device
def expm1(v, ACC: tl.constexpr):
    """exp(v) - 1 for v <= 0, without cancellation near 0."""
    # The series to the last term that the type can see for |v| < 0.35.
    TERMS: tl.constexpr = 14 if tl.float64 == ACC else 8
    small = tl.where(v > -0.35, v, 0.0)
    series = small * 0.0 + 1.0
    for i in tl.static_range(TERMS - 1):
        series = 1.0 + series * small / (TERMS - i)
    return tl.where(v > -0.35, small * series, tl.exp(v) - 1.0)


@device
def tanh(v, ACC: tl.constexpr):
    m = expm1(-2.0 * tl.abs(v), ACC)
    t = -m / (m + 2.0)
    return tl.where(v < 0, -t, t)


@device
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@device
def gelu_cdf(v):
    return 0.5 * (1.0 + tl.erf(v * 0.7071067811865476))


@device
def gelu_pdf(v):
    return 0.3989422804014327 * tl.exp(-0.5 * v * v)


@device
def clip6(v):
    return tl.where(v < 0, 0.0, tl.where(v > 6, 6.0, v))


@device
def activate(v, a, ACT: tl.constexpr, PARAM: tl.constexpr, ACC: tl.constexpr):
    """act(v)"""
    y = v
    if ACT == "relu":
        y = tl.where(v < 0, 0.0, v)
    elif ACT == "relu6":
        y = clip6(v)
    elif ACT == "leaky_relu":
        y = tl.where(v > 0, v, v * PARAM)
    elif ACT == "prelu":
        y = tl.where(v > 0, v, v * a)
    elif ACT == "sigmoid":
        y = sigmoid(v)
    elif ACT == "tanh":
        y = tanh(v, ACC)
    elif ACT == "silu":
        y = v * sigmoid(v)
    elif ACT == "hardswish":
        y = v * clip6(v + 3.0) / 6.0
    elif ACT == "hardsigmoid":
        y = clip6(v + 3.0) / 6.0
    elif ACT == "gelu":
        y = v * gelu_cdf(v)
    elif ACT == "elu":
        y = tl.where(v > 0, v, PARAM * expm1(tl.where(v > 0, 0.0, v), ACC))
    return y


@device
def derivative(v, a, ACT: tl.constexpr, PARAM: tl.constexpr, ACC: tl.constexpr):
    """act'(v), at a kink the side that torch takes."""
    one = tl.full(v.shape, 1.0, ACC)  # a constant would be float32 where ACC is float64
    d = one
    if ACT == "relu":
        d = tl.where(v <= 0, 0.0, one)
    elif ACT == "relu6":
        d = tl.where((v <= 0) | (v >= 6), 0.0, one)
    elif ACT == "leaky_relu":
        d = tl.where(v > 0, one, one * PARAM)
    elif ACT == "prelu":
        d = tl.where(v > 0, one, a)
    elif ACT == "sigmoid":
        d = sigmoid(v) * sigmoid(-v)
    elif ACT == "tanh":
        t = tanh(v, ACC)
        d = one - t * t
    elif ACT == "silu":
        d = sigmoid(v) * (one + v * sigmoid(-v))
    elif ACT == "hardswish":
        d = tl.where(v <= -3, 0.0, tl.where(v < 3, v / 3.0 + 0.5, one))
    elif ACT == "hardsigmoid":
        d = tl.where((v > -3) & (v < 3), one / 6.0, 0.0)
    elif ACT == "gelu":
        d = gelu_cdf(v) + v * gelu_pdf(v)
    elif ACT == "elu":
        d = tl.where(v <= 0, PARAM * tl.exp(tl.where(v > 0, 0.0, v)), one)
    return d


@device
def second_derivative(v, ACT: tl.constexpr, PARAM: tl.constexpr, ACC: tl.constexpr):
    """act''(v); zero for what is piecewise linear."""
    d = tl.full(v.shape, 0.0, ACC)
    if ACT == "sigmoid":
        s = sigmoid(v)
        d = s * sigmoid(-v) * (1.0 - 2.0 * s)
    elif ACT == "tanh":
        t = tanh(v, ACC)
        d = -2.0 * t * (1.0 - t * t)
    elif ACT == "silu":
        s = sigmoid(v)
        d = s * sigmoid(-v) * (2.0 + v * (1.0 - 2.0 * s))
    elif ACT == "hardswish":
        d = tl.where((v > -3) & (v < 3), (d + 1.0) / 3.0, 0.0)
    elif ACT == "gelu":
        d = gelu_pdf(v) * (2.0 - v * v)
    elif ACT == "elu":
        d = tl.where(v < 0, PARAM * tl.exp(tl.where(v > 0, 0.0, v)), 0.0)
    return d


@device
def epilogue(
    acc, n, k, p, q, mask, channels, bias, scale, shift, residual, rs_n, rs_k, rs_p, rs_q, alpha, as_n, as_k, as_p,
    as_q, ACT: tl.constexpr, PARAM: tl.constexpr, ALPHA: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The accumulators of a tile through the epilogue.

    n, p, q (rows, 1) and k (1, columns) are where they belong, `mask` which of them exist, `channels` which columns.
    ALPHA says where PReLU's slopes come from: "none", "channel" (one, or one per column), "full".
    """
    if bias is not None:
        acc += widen(tl.load(bias + k, mask=channels, other=0.0), ACC)
    if scale is not None:
        acc *= widen(tl.load(scale + k, mask=channels, other=0.0), ACC)
    if shift is not None:
        acc += widen(tl.load(shift + k, mask=channels, other=0.0), ACC)
    if residual is not None:
        where = n * rs_n + k * rs_k + p * rs_p + q * rs_q
        acc += widen(tl.load(residual + where, mask=mask, other=0.0), ACC)
    a = acc
    if ALPHA == "channel":
        a = widen(tl.load(alpha + k * as_k, mask=channels, other=0.0), ACC)
    elif ALPHA == "full":
        where = n * as_n + k * as_k + p * as_p + q * as_q
        a = widen(tl.load(alpha + where, mask=mask, other=0.0), ACC)
    return activate(acc, a, ACT, PARAM, ACC)
