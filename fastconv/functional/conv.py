"""Convolution with its epilogue: conv2d, conv2d + BatchNorm + activation, upsampling + conv2d."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import cache, checks, choice, conv_checks, dispatch
from .arguments import ActParam, IntOrPair, four_sides, pair, split_param

Padding = int | Sequence[int] | str

# The algorithms that read the cached weights; the others pack, or do not, in their own way.
_READ_PACKED = (None, "implicit_gemm", "pointwise", "depthwise", "grouped", "phase", "winograd", *choice.TRANSFORMED)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "identity",
    act_param: ActParam = None,
    algo: str | None = None,
) -> Tensor:
    """Two-dimensional convolution with per-channel scale and shift, residual addition and activation in one pass.

    y[n, k] = act(scale[k] * (sum over c, r, s of x * weight + bias[k]) + shift[k] + residual[n, k])

    Equivalent to ``act(torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups) * scale + shift +
    residual)``; the first seven arguments are torch's.

    Args:
        x: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        weight: (K, C / groups, R, S), of x's dtype.
        bias: (K,), of x's dtype.
        stride, dilation: an int or (vertical, horizontal), in pixels.
        padding: an int, a pair, 'same', 'valid', or four values: top, bottom, left, right.
        groups: channels are split into this many groups that do not mix.
        scale, shift: (K,), any floating dtype.
        residual: of the output's shape and x's dtype; any strides.
        act: identity, relu, relu6, leaky_relu, prelu, sigmoid, tanh, silu, hardswish, hardsigmoid, gelu or elu.
        act_param: the slope of leaky_relu (0.01) or alpha of elu (1.0); for prelu a tensor of shape (1,), (K,) or
            (K, P, Q).
        algo: forces an algorithm of ``fastconv.algorithms("conv2d")``; None lets the package choose.

    Returns:
        (N, K, P, Q) with P = (H + top + bottom - dilation * (R - 1) - 1) // stride + 1, channels_last if x or weight
        is.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        ValueError: scale, shift, residual, act, act_param or algo do not fit.
        NotImplementedError: no algorithm serves the problem, or not the one asked for; with each one's reasons.

    Numerics: products and the whole epilogue in float32 (float64 for float64), rounded once at the end; the order of
    additions is fixed by the problem, not by the number of threads. 3x3 filters at stride 1 may be multiplied by
    Winograd's algorithm, which rearranges sums: see `fastconv.allow_winograd`. Where autograd records, the call is
    taken apart: the scale goes into the weight, then convolution, residual and activation run one after the other.
    """
    try:
        return _run(
            None, x, weight, bias, stride, padding, dilation, groups, scale, shift, residual, act, act_param, algo
        )
    except Exception as error:
        fused = {"scale": scale, "shift": shift, "residual": residual, "act": act, "act_param": act_param}
        dispatch.refused(
            error, "conv2d", _check, x, "conv2d", weight, bias, stride, padding, dilation, groups, fused
        )  # fmt: skip


def _check(x: Any, op: str, *rest: Any) -> None:
    conv_checks.conv2d(op, x, *rest)


def upsample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale_factor: IntOrPair = 2,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "identity",
    act_param: ActParam = None,
    algo: str | None = None,
) -> Tensor:
    """Nearest upsampling by a whole factor, then conv2d with its epilogue, without the upsampled tensor in memory.

    y = conv2d(x[n, c, h // scale_factor, w // scale_factor], weight, ...)

    Equivalent to ``conv2d(torch.nn.functional.interpolate(x, scale_factor=scale_factor), weight, ...)``.

    Args:
        x: (N, C, H, W) or (C, H, W).
        scale_factor: an int or (vertical, horizontal), at least 1.
        The others are those of `conv2d`. Algorithms: `gather` makes the same products as the unfused pair, `phase`
        sums the filter taps that meet the same pixel beforehand and so multiplies less; `amx` and `avx512_bf16`
        make the unfused pair's products of bfloat16.

    Returns:
        (N, K, P, Q) with P = (H * scale_factor + top + bottom - dilation * (R - 1) - 1) // stride + 1.

    Raises:
        As `conv2d`; ValueError for a scale_factor that is not a whole number of at least 1.

    Numerics: as `conv2d`; `phase` adds weights before multiplying, which rounds differently.
    """
    try:
        if scale_factor is None:
            raise TypeError("scale_factor is missing")  # the checks find better words
        return _run(
            scale_factor, x, weight, bias, stride, padding, dilation, groups, scale, shift, residual, act, act_param,
            algo,
        )  # fmt: skip
    except Exception as error:
        fused = {"scale": scale, "shift": shift, "residual": residual, "act": act, "act_param": act_param}
        arguments = (weight, bias, stride, padding, dilation, groups, fused, scale_factor)
        dispatch.refused(error, "upsample_conv2d", _check, x, "upsample_conv2d", *arguments)


def _run(
    factor: IntOrPair | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    act: str,
    act_param: ActParam,
    algo: str | None,
) -> Tensor:
    lowered = dispatch.autocast_dtype(x)
    if lowered is not None:
        x, weight, bias, residual = dispatch.lower(lowered, x, weight, bias, residual)
    if x.dim() == 3:
        batch = None if residual is None else residual.unsqueeze(0)
        arguments = (stride, padding, dilation, groups, scale, shift, batch, act, act_param, algo)
        return _run(factor, x.unsqueeze(0), weight, bias, *arguments).squeeze(0)
    if bias is not None and bias.dtype is not x.dtype:
        raise ValueError("bias and input differ in dtype")
    stride, dilation = pair(stride), pair(dilation)
    sides = (
        (padding, padding, padding, padding)
        if type(padding) is int
        else four_sides(padding, weight.shape[2:], stride, dilation)
    )
    param, alpha = (0.0, None) if act == "identity" and act_param is None else split_param(act, act_param)
    backend = dispatch.forced_backend(x)
    operators = dispatch.operators_of(backend)
    upsample = () if factor is None else (pair(factor),)
    operator = operators.conv2d if factor is None else operators.upsample_conv2d
    geometry = (*upsample, stride, sides, dilation, groups)
    recorded = dispatch.records(x, weight, bias, scale, shift, residual, alpha)
    plain = scale is None and shift is None and residual is None and act == "identity" and act_param is None
    # A call that is taken apart never reaches the operator that would refuse its operands; nor does a captured one.
    if dispatch.checks_first() or (recorded and not plain):
        fused = {"scale": scale, "shift": shift, "residual": residual, "act": act, "act_param": act_param}
        name = "conv2d" if factor is None else "upsample_conv2d"
        conv_checks.conv2d(
            name, x, weight, bias, stride, sides, dilation, groups, fused, 1 if factor is None else factor
        )
    if recorded:
        if not plain:
            weight, bias = _fold(weight, bias, scale, shift, x.dtype)
        rest = (None, None, None, "identity", 0.0, None, algo or "", backend, None)
        y = dispatch.recorded(operator, x, weight, bias, *geometry, *rest)
        if residual is not None:
            y = y + residual
        return y if act == "identity" else dispatch.recorded(operators.activation, y, act, param, alpha, backend)
    packed = None
    if algo in _READ_PACKED and not backend and not dispatch.is_compiling() and weight.is_cpu:
        if upsample:
            packed = cache.upsample_weight(weight, *geometry)
        else:
            fitting = algo or ""
            if algo is None or algo == "winograd":
                fitting = choice.conv2d(x, weight, stride, sides, dilation, groups, fitting)
            if choice.can_pack(fitting, weight):
                packed = cache.conv2d_weight(weight, groups, fitting)
            if fitting and (packed is not None or fitting == choice.UNPACKED):
                algo = fitting  # else the table chooses, knowing that the call packs
    return dispatch.call(
        operator, x, weight, bias, *geometry, scale, shift, residual, act, param, alpha, algo or "", backend, packed
    )


def _fold(
    weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """scale and shift inside weight and bias: what autograd records."""
    if scale is not None:
        weight = (weight * scale.view(-1, 1, 1, 1)).to(dtype)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return weight, None if bias is None else bias.to(dtype)


def conv2d_bn_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float = 1e-5,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    residual: Tensor | None = None,
    act: str = "relu",
    act_param: ActParam = None,
    algo: str | None = None,
) -> Tensor:
    """Convolution, BatchNorm with its running statistics (inference), residual addition and activation in one pass.

    y = act((conv(x, weight) + bias - running_mean) / sqrt(running_var + eps) * bn_weight + bn_bias + residual)

    Equivalent to ``act(torch.nn.functional.batch_norm(torch.nn.functional.conv2d(x, weight, bias, stride, padding,
    dilation, groups), running_mean, running_var, bn_weight, bn_bias, False, 0.0, eps) + residual)``.

    Args:
        running_mean, running_var: (K,).
        bn_weight, bn_bias: (K,) or None (1 and 0).
        eps: added to the variance.
        The others are those of `conv2d`.

    Returns:
        As `conv2d`.

    Raises:
        As `conv2d`; ValueError for statistics that are not of shape (K,).

    Numerics: the norm becomes a scale and a shift in float32 (float64 for float64); then as `conv2d`. The module
    `fastconv.nn.ConvBNAct2d` folds it into the weights, once.
    """
    if not isinstance(weight, Tensor) or not isinstance(eps, float | int):
        checks.tensors("conv2d_bn_act", input=x, weight=weight)
        raise TypeError(f"conv2d_bn_act(): argument 'eps' must be float, not {type(eps).__name__}")
    norm = {"running_mean": running_mean, "running_var": running_var, "bn_weight": bn_weight, "bn_bias": bn_bias}
    for name, vector in norm.items():
        if vector is None and name.startswith("bn_"):
            continue
        checks.require(
            isinstance(vector, Tensor) and vector.shape == weight.shape[:1],
            lambda: (
                f"conv2d_bn_act: expected {name} to be a tensor of shape {list(weight.shape[:1])}, but got "
                f"{checks.shape_of(vector)}"
            ),
            ValueError,
        )

    # Anew at each call: F.batch_norm in training writes the running statistics without a new version, so that no cache
    # could notice.
    exact = torch.float64 if running_var.dtype == torch.float64 else torch.float32
    scale = torch.rsqrt(running_var.to(exact) + eps)
    if bn_weight is not None:
        scale = scale * bn_weight
    shift = -running_mean * scale
    if bn_bias is not None:
        shift = shift + bn_bias
    return conv2d(
        x, weight, bias, stride, padding, dilation, groups, scale=scale, shift=shift, residual=residual, act=act,
        act_param=act_param, algo=algo,
    )  # fmt: skip
