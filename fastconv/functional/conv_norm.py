"""Convolution before training-mode BatchNorm: its kernel gives the batch's statistics on the way where it can."""

from typing import Any

from torch import Tensor

from fastconv import ops

from . import conv_checks, dispatch
from .arguments import IntOrPair, four_sides, pair
from .conv import Padding


def gives_statistics(x: Tensor) -> bool:
    """Whether `conv2d_stats` saves anything: elsewhere than on the CUDA kernels it would run its two parts, and so can
    the caller, whose weights' packing may be at hand then."""
    if not isinstance(x, Tensor) or x.dim() != 4 or ops.transforming():
        return False
    backend = dispatch.forced_backend(x)
    return dispatch.operators_of(backend) is ops.native and (x.is_cuda or backend == "cuda_emulated")


def conv2d_stats(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = conv2d(x, weight, bias, ...), and the mean and the variance (divisor N*P*Q) of each of its channels.

    The statistics are of y as it is rounded, in the accumulate type, and differentiable as functions of it; to
    `norm.normalised` they are y's own, and their part of the gradient is in what it gives y.
    """
    try:
        lowered = dispatch.autocast_dtype(x)
        if lowered is not None:
            x, weight, bias = dispatch.lower(lowered, x, weight, bias)
        if bias is not None and bias.dtype is not x.dtype:
            raise ValueError("bias and input differ in dtype")
        strides, dilations = pair(stride), pair(dilation)
        sides = four_sides(padding, weight.shape[2:], strides, dilations)
        if dispatch.checks_first():
            _check(x, weight, bias, stride, padding, dilation, groups)
        backend = dispatch.forced_backend(x)
        run = dispatch.recorded if dispatch.records(x, weight, bias) else dispatch.call
        operator = dispatch.operators_of(backend).conv2d_stats
        return run(operator, x, weight, bias, strides, sides, dilations, groups, "", backend)
    except Exception as error:
        dispatch.refused(error, "conv2d", _check, x, weight, bias, stride, padding, dilation, groups)


def _check(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> None:
    plain = {"scale": None, "shift": None, "residual": None, "act": "identity", "act_param": None}
    conv_checks.conv2d("conv2d", x, weight, bias, stride, padding, dilation, groups, plain)
