"""What an operator demands of its arguments, for those who have no C++ behind them: fakes, the reference, Triton.

`CHECKS[name]` takes the schema's arguments and raises what fastconv.functional would: the functions there work out why
a call was refused, and here they refuse it. Without them a fake would answer bad input with a shape, and a kernel in
Python would read past a tensor.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import blocks
from .demands import algorithm, dims, fused, like, require, same, shape

Ints = Sequence[int]


# ---- convolutions


def _conv(
    op: str, x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints,
    groups: int, epilogue: dict[str, Any], algo: str, backend: str,
) -> None:  # fmt: skip
    from fastconv.functional import conv_checks

    conv_checks.conv2d(op, x, weight, bias, stride, padding, dilation, groups, epilogue, factor)
    for name, values, count in (("x", x.shape, 4), ("stride", stride, 2), ("padding", padding, 4),
                                ("dilation", dilation, 2), ("scale_factor", factor, 2)):  # fmt: skip
        dims(op, name, values, count)
    algorithm(op, algo, backend, x)


def _conv2d(
    x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int, scale: Any,
    shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    epilogue = fused(scale, shift, residual, act, alpha)
    _conv("conv2d", x, weight, bias, (1, 1), stride, padding, dilation, groups, epilogue, algo, backend)


def _conv2d_stats(x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> None:
    stride, padding, dilation, groups, algo, backend = rest
    plain = fused(None, None, None, "identity", None)
    _conv("conv2d_stats", x, weight, bias, (1, 1), stride, padding, dilation, groups, plain, algo, backend)


def _upsample_conv2d(
    x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    scale: Any, shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    epilogue = fused(scale, shift, residual, act, alpha)
    _conv("upsample_conv2d", x, weight, bias, factor, stride, padding, dilation, groups, epilogue, algo, backend)


def _conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, extra: Ints, groups: int, dilation: Ints,
    algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    from fastconv.functional import conv_checks

    conv_checks.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    for name, values, count in (("x", x.shape, 4), ("stride", stride, 2), ("padding", padding, 2),
                                ("output_padding", extra, 2), ("dilation", dilation, 2)):  # fmt: skip
        dims("conv_transpose2d", name, values, count)
    algorithm("conv_transpose2d", algo, backend, x)


def _conv_grad(
    op: str, dy: Tensor, x: Tensor, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    algo: str, backend: str,
) -> None:  # fmt: skip
    from .fakes import _conv_shape

    _conv(op, x, weight, None, (1, 1), stride, padding, dilation, groups, {}, algo, backend)
    shape(op, "dy", dy, _conv_shape(x.shape, weight.shape, stride, padding, dilation))


def _input_grad(dy: Tensor, weight: Tensor, size: Ints, *rest: Any) -> None:
    dims("conv2d_input_grad", "input_size", size)
    _conv_grad("conv2d_input_grad", dy, like(dy, size), weight, *rest)


def _weight_grad(dy: Tensor, x: Tensor, size: Ints, *rest: Any) -> None:
    dims("conv2d_weight_grad", "weight_size", size)
    _conv_grad("conv2d_weight_grad", dy, x, like(dy, size), *rest)


def _gemm(
    a: Tensor, b: Tensor, bias: Any, transpose_a: bool, transpose_b: bool, residual: Any, act: str, param: float,
    alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    from fastconv.functional.gemm import _check_gemm

    _check_gemm(a, b, bias, transpose_a, transpose_b, residual, act, alpha if act == "prelu" else None)
    algorithm("gemm", algo, backend, a)


# ---- pooling


def _pool(op: str, x: Tensor, *window: Any) -> None:
    from fastconv.functional import pool_checks

    getattr(pool_checks, op)(x, *window)
    dims(op, "x", x)


def _max_pool2d(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, *_: Any) -> None:
    _pool("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)


def _avg_pool2d(
    x: Tensor, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool, include: bool, divisor: int, _: str
) -> None:
    _pool("avg_pool2d", x, kernel, stride, padding, ceil_mode, divisor or None)  # 0 stands for none


def _pool_backward(forward: str, dy: Tensor, size: Ints, arguments: tuple[Any, ...], indices: Any = None) -> None:
    """The forward pass would have taken an input of that size, and returned what dy has."""
    from .fakes import FAKES

    op = forward + "_backward"
    dims(op, "input_size", size)
    x = like(dy, size)
    CHECKS[forward](x, *arguments)
    y = FAKES[forward](x, *arguments)
    shape(op, "dy", dy, (y[0] if isinstance(y, tuple) else y).shape)
    if indices is not None:
        shape(op, "indices", indices, dy.shape)
        require(
            indices.dtype == torch.int64, lambda: f"{op}: expected indices to be torch.int64, but got {indices.dtype}"
        )


def _adaptive_backward(forward: str, dy: Tensor, size: Ints, indices: Any = None) -> None:
    from fastconv.functional import checks

    op = forward + "_backward"
    dims(op, "dy", dy)
    dims(op, "input_size", size)
    require(
        tuple(dy.shape[:2]) == tuple(size[:2]),
        lambda: f"{op}: expected dy to have batch and channels of {list(size)}, but got {list(dy.shape)}",
    )
    if math.prod(size) == 0:
        return checks.float_dtype(op, dy)
    further = () if indices is None else (True,)
    return _pool_backward(forward, dy, size, (dy.shape[2:], *further, ""), indices)


# ---- elementwise


def _activation(x: Tensor, act: str, param: float, alpha: Any, _: str) -> None:
    from fastconv.functional import checks

    op = "activation"
    checks.dense(op, "x", x)
    checks.float_dtype(op, x)
    checks.epilogue(op, x.shape, x, 1, x.shape[1] if x.dim() > 1 else 1, fused(None, None, None, act, alpha))
    require(
        act != "prelu" or alpha.numel() == 1 or x.dim() > 1,
        lambda: f"{op}: expected one value of alpha for an input of {x.dim()} dimensions, but got {list(alpha.shape)}",
    )


def _activation_backward(dy: Tensor, x: Tensor, act: str, param: float, alpha: Any, order: int, backend: str) -> None:
    op = "activation_backward"
    require(order in (1, 2), lambda: f"{op}: expected order to be 1 or 2, but got {order}")
    same(op, "dy", dy, x)
    _activation(x, act, param, alpha, backend)


def _prelu_alpha_grad(dy: Tensor, x: Tensor, size: Ints, _: str) -> None:
    op, count = "prelu_alpha_grad", math.prod(size)
    same(op, "dy", dy, x)
    if count > 1:
        require(x.dim() > 1, lambda: f"{op}: expected alpha_size to be of one value, but got {list(size)}")
        whole = math.prod(x.shape[1:])
        require(
            count == (x.shape[1] if len(size) == 1 else whole),
            lambda: f"{op}: expected alpha_size to be of 1, {x.shape[1]} or {whole} values, but got {list(size)}",
        )


def _softmax(x: Tensor, dim: int, _: str) -> None:
    from fastconv.functional.activation import _check_softmax

    _check_softmax(x, dim)


def _softmax_backward(dy: Tensor, y: Tensor, dim: int, backend: str) -> None:
    same("softmax_backward", "dy", dy, y)
    _softmax(y, dim, backend)


# ---- normalisation


def _image(op: str, x: Tensor) -> None:
    from fastconv.functional import checks

    dims(op, "x", x)
    checks.float_dtype(op, x)


def _batch_norm_act(
    x: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, training: bool, eps: float, residual: Any, act: str,
    param: float, alpha: Any, _: str,
) -> None:  # fmt: skip
    from fastconv.functional import norm

    _image("batch_norm_act", x)
    norm._check(x, mean, var, weight, bias, False, 0.0, eps, residual, act, alpha if act == "prelu" else None)


def _batch_norm_act_backward(dy: Tensor, x: Tensor, *rest: Any) -> None:
    same("batch_norm_act_backward", "dy", dy, x)
    _batch_norm_act(x, *rest)


# ---- rearrangements


def _im2col(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, _: str) -> None:
    from fastconv.functional.rearrange import _check_im2col

    _check_im2col(x, kernel, stride, padding, dilation)
    dims("im2col", "x", x)


def _col2im(x: Tensor, size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, _: str) -> None:
    from fastconv.functional.rearrange import _check_col2im

    _check_col2im(x, size, kernel, stride, padding, dilation)
    dims("col2im", "x", x, 3)


def _upsample(op: str, x: Tensor, factor: Ints) -> None:
    from fastconv.functional import checks

    _image(op, x)
    require(
        len(factor) == 2 and all(f >= 1 for f in factor),
        lambda: f"{op}: expected scale_factor to be two whole numbers of at least 1, but got {list(factor)}",
    )
    checks.below_31_bits(op, scale_factor=list(factor))


def _upsample_backward(dy: Tensor, factor: Ints, _: str) -> None:
    op = "upsample_nearest2d_backward"
    _upsample(op, dy, factor)
    require(
        dy.shape[2] % factor[0] == 0 and dy.shape[3] % factor[1] == 0,
        lambda: f"{op}: expected dy to have a multiple of {list(factor)} pixels, but got {list(dy.shape)}",
    )


CHECKS: dict[str, Callable[..., None]] = {
    "conv2d": _conv2d,
    "conv2d_stats": _conv2d_stats,
    "upsample_conv2d": _upsample_conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "conv2d_input_grad": _input_grad,
    "conv2d_weight_grad": _weight_grad,
    "gemm": _gemm,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": lambda dy, indices, size, *rest: _pool_backward(
        "max_pool2d", dy, size, (*rest[:-1], True, rest[-1]), indices
    ),
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": lambda dy, size, *rest: _pool_backward("avg_pool2d", dy, size, rest),
    "adaptive_avg_pool2d": lambda x, size, _: _pool("adaptive_avg_pool2d", x, size),
    "adaptive_avg_pool2d_backward": lambda dy, size, _: _adaptive_backward("adaptive_avg_pool2d", dy, size),
    "adaptive_max_pool2d": lambda x, size, *_: _pool("adaptive_max_pool2d", x, size),
    "adaptive_max_pool2d_backward": lambda dy, indices, size, _: _adaptive_backward(
        "adaptive_max_pool2d", dy, size, indices
    ),
    "activation": _activation,
    "activation_": _activation,
    "activation_backward": _activation_backward,
    "prelu_alpha_grad": _prelu_alpha_grad,
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "channel_sum": lambda dy, _: _image("channel_sum", dy),
    "batch_norm_stats": lambda x, _: _image("batch_norm_stats", x),
    "batch_norm_act": _batch_norm_act,
    "batch_norm_act_backward": _batch_norm_act_backward,
    "im2col": _im2col,
    "col2im": _col2im,
    "upsample_nearest2d": lambda x, factor, _: _upsample("upsample_nearest2d", x, factor),
    "upsample_nearest2d_backward": _upsample_backward,
    **blocks.CHECKS,
}
