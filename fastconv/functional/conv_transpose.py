"""Transposed convolution."""

from torch import Tensor

from . import cache, conv_checks, dispatch
from .arguments import IntOrPair, pair


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    algo: str | None = None,
) -> Tensor:
    """Two-dimensional transposed convolution: the input gradient of conv2d, as a layer.

    y[n, k, h * stride - padding + r * dilation, ...] += x[n, c, h, w] * weight[c, k, r, s]

    Equivalent to ``torch.nn.functional.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups,
    dilation)``.

    Args:
        x: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        weight: (C, K / groups, R, S), of x's dtype.
        bias: (K,), of x's dtype.
        stride, padding, output_padding, dilation: an int or (vertical, horizontal), in pixels.
        groups: channels are split into this many groups that do not mix.
        algo: forces an algorithm of ``fastconv.algorithms("conv_transpose2d")``.

    Returns:
        (N, K, P, Q) with P = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        ValueError: an unknown algo.
        NotImplementedError: no algorithm serves the problem, or not the one asked for.

    Numerics: as `conv2d`.
    """
    try:
        lowered = dispatch.autocast_dtype(x)
        if lowered is not None:
            x, weight, bias = dispatch.lower(lowered, x, weight, bias)
        if x.dim() == 3:
            rest = (bias, stride, padding, output_padding, groups, dilation)
            return conv_transpose2d(x.unsqueeze(0), weight, *rest, algo=algo).squeeze(0)
        if bias is not None and bias.dtype is not x.dtype:
            raise ValueError("bias and input differ in dtype")
        compiling = dispatch.is_compiling()
        if dispatch.checks_first():
            conv_checks.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
        stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
        backend = dispatch.forced_backend(x)
        operator = dispatch.operators_of(backend).conv_transpose2d
        arguments = (x, weight, bias, stride, padding, pair(output_padding), groups, dilation, algo or "", backend)
        if dispatch.records(x, weight, bias):
            return dispatch.recorded(operator, *arguments, None)
        packed = None
        if algo in (None, "phases") and not backend and not compiling and weight.is_cpu:
            packed = cache.transpose_weight(weight, stride, padding, dilation, groups)
        return dispatch.call(operator, *arguments, packed)
    except Exception as error:
        raw = (weight, bias, stride, padding, output_padding, groups, dilation)
        dispatch.refused(error, "conv_transpose2d", conv_checks.conv_transpose2d, x, *raw)
