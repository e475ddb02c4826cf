"""What an operator demands of its arguments, for those who have no C++ behind them: fakes, the reference, Triton.

`CHECKS[name]` takes the schema's arguments and raises what fastconv.functional would: the functions there work out why
a call was refused, and here they refuse it. Without them a fake would answer bad input with a shape, and a kernel in
Python would read past a tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Ints = Sequence[int]


def _require(condition: Any, message: Callable[[], str]) -> None:
    if not condition:
        raise ValueError(message())


def _like(t: Tensor, size: Ints) -> Tensor:
    """A tensor of another size that costs nothing, for checks that look at shapes, dtypes and devices only."""
    return t.new_empty(1).expand(list(size))


def _shape(op: str, name: str, t: Tensor, expected: Ints) -> None:
    _require(
        tuple(t.shape) == tuple(expected),
        lambda: f"{op}: expected {name} to have shape {list(expected)}, but got {list(t.shape)}",
    )


def _dims(op: str, name: str, t: Tensor | Ints, dims: int = 4) -> None:
    count = t.dim() if isinstance(t, Tensor) else len(t)
    _require(count == dims, lambda: f"{op}: expected {name} to have {dims} dimensions, but got {count}")


def _same(op: str, name: str, t: Tensor, like: Tensor) -> None:
    _shape(op, name, t, like.shape)
    _require(t.dtype == like.dtype, lambda: f"{op}: expected {name} to be {like.dtype}, but got {t.dtype}")


def _algorithm(op: str, algo: str, backend: str, x: Tensor) -> None:
    from fastconv import introspection

    if not algo:
        return
    here = introspection.algorithm_names(op, backend or ("cuda" if x.is_cuda else "cpu"))
    # The reference has one way; it takes the names of those that it is compared with.
    known = here or sorted({name for b in ("cpu", "cuda_emulated") for name in introspection.algorithm_names(op, b)})
    _require(algo in known, lambda: f"{op}: expected algo to be one of {', '.join(known)}, but got '{algo}'")


def _fused(scale: Any, shift: Any, residual: Any, act: str, alpha: Any) -> dict[str, Any]:
    return {"scale": scale, "shift": shift, "residual": residual, "act": act, "act_param": alpha}


# ---- convolutions


def _conv(
    op: str, x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints,
    groups: int, fused: dict[str, Any], algo: str, backend: str,
) -> None:  # fmt: skip
    from fastconv.functional import conv_checks

    conv_checks.conv2d(op, x, weight, bias, stride, padding, dilation, groups, fused, factor)
    for name, values, count in (("x", x.shape, 4), ("stride", stride, 2), ("padding", padding, 4),
                                ("dilation", dilation, 2), ("scale_factor", factor, 2)):  # fmt: skip
        _dims(op, name, values, count)
    _algorithm(op, algo, backend, x)


def _conv2d(
    x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int, scale: Any,
    shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    fused = _fused(scale, shift, residual, act, alpha)
    _conv("conv2d", x, weight, bias, (1, 1), stride, padding, dilation, groups, fused, algo, backend)


def _upsample_conv2d(
    x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    scale: Any, shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    fused = _fused(scale, shift, residual, act, alpha)
    _conv("upsample_conv2d", x, weight, bias, factor, stride, padding, dilation, groups, fused, algo, backend)


def _conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, extra: Ints, groups: int, dilation: Ints,
    algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    from fastconv.functional import conv_checks

    conv_checks.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)
    for name, values, count in (("x", x.shape, 4), ("stride", stride, 2), ("padding", padding, 2),
                                ("output_padding", extra, 2), ("dilation", dilation, 2)):  # fmt: skip
        _dims("conv_transpose2d", name, values, count)
    _algorithm("conv_transpose2d", algo, backend, x)


def _conv_grad(
    op: str, dy: Tensor, x: Tensor, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    algo: str, backend: str,
) -> None:  # fmt: skip
    from .fakes import _conv_shape

    _conv(op, x, weight, None, (1, 1), stride, padding, dilation, groups, {}, algo, backend)
    _shape(op, "dy", dy, _conv_shape(x.shape, weight.shape, stride, padding, dilation))


def _input_grad(dy: Tensor, weight: Tensor, size: Ints, *rest: Any) -> None:
    _dims("conv2d_input_grad", "input_size", size)
    _conv_grad("conv2d_input_grad", dy, _like(dy, size), weight, *rest)


def _weight_grad(dy: Tensor, x: Tensor, size: Ints, *rest: Any) -> None:
    _dims("conv2d_weight_grad", "weight_size", size)
    _conv_grad("conv2d_weight_grad", dy, x, _like(dy, size), *rest)


def _gemm(
    a: Tensor, b: Tensor, bias: Any, transpose_a: bool, transpose_b: bool, residual: Any, act: str, param: float,
    alpha: Any, algo: str, backend: str, packed: Any,
) -> None:  # fmt: skip
    from fastconv.functional.gemm import _check_gemm

    _check_gemm(a, b, bias, transpose_a, transpose_b, residual, act, alpha)
    _algorithm("gemm", algo, backend, a)


# ---- pooling


def _pool(op: str, x: Tensor, *window: Any) -> None:
    from fastconv.functional import pool_checks

    getattr(pool_checks, op)(x, *window)
    _dims(op, "x", x)


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
    _dims(op, "input_size", size)
    x = _like(dy, size)
    CHECKS[forward](x, *arguments)
    y = FAKES[forward](x, *arguments)
    _shape(op, "dy", dy, (y[0] if isinstance(y, tuple) else y).shape)
    if indices is not None:
        _shape(op, "indices", indices, dy.shape)


def _adaptive_backward(forward: str, dy: Tensor, size: Ints, indices: Any = None) -> None:
    _dims(forward + "_backward", "dy", dy)
    further = () if indices is None else (True,)
    _pool_backward(forward, dy, size, (dy.shape[2:], *further, ""), indices)


# ---- elementwise


def _activation(x: Tensor, act: str, param: float, alpha: Any, _: str) -> None:
    from fastconv.functional import activation, checks

    checks.activation("activation", act, alpha)
    activation._check(x, act, alpha)


def _activation_backward(dy: Tensor, x: Tensor, act: str, param: float, alpha: Any, order: int, backend: str) -> None:
    op = "activation_backward"
    _require(order in (1, 2), lambda: f"{op}: expected order to be 1 or 2, but got {order}")
    _same(op, "dy", dy, x)
    _activation(x, act, param, alpha, backend)


def _prelu_alpha_grad(dy: Tensor, x: Tensor, size: Ints, _: str) -> None:
    from fastconv.functional import activation

    _same("prelu_alpha_grad", "dy", dy, x)
    activation._check(x, "prelu", _like(x, size))


def _softmax(x: Tensor, dim: int, _: str) -> None:
    from fastconv.functional.activation import _check_softmax

    _check_softmax(x, dim)


def _softmax_backward(dy: Tensor, y: Tensor, dim: int, backend: str) -> None:
    _same("softmax_backward", "dy", dy, y)
    _softmax(y, dim, backend)


# ---- normalisation


def _image(op: str, x: Tensor) -> None:
    from fastconv.functional import checks

    _dims(op, "x", x)
    checks.float_dtype(op, x)


def _batch_norm_act(
    x: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, training: bool, eps: float, residual: Any, act: str,
    param: float, alpha: Any, _: str,
) -> None:  # fmt: skip
    from fastconv.functional import norm

    _image("batch_norm_act", x)
    norm._check(x, mean, var, weight, bias, False, 0.0, eps, residual, act, alpha)


def _batch_norm_act_backward(dy: Tensor, x: Tensor, *rest: Any) -> None:
    _same("batch_norm_act_backward", "dy", dy, x)
    _batch_norm_act(x, *rest)


# ---- rearrangements


def _im2col(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, _: str) -> None:
    from fastconv.functional.rearrange import _check_im2col

    _check_im2col(x, kernel, stride, padding, dilation)
    _dims("im2col", "x", x)


def _col2im(x: Tensor, size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, _: str) -> None:
    from fastconv.functional.rearrange import _check_col2im

    _check_col2im(x, size, kernel, stride, padding, dilation)
    _dims("col2im", "x", x, 3)


def _upsample(op: str, x: Tensor, factor: Ints) -> None:
    _image(op, x)
    _require(
        len(factor) == 2 and all(f >= 1 for f in factor),
        lambda: f"{op}: expected scale_factor to be two whole numbers of at least 1, but got {list(factor)}",
    )


def _upsample_backward(dy: Tensor, factor: Ints, _: str) -> None:
    op = "upsample_nearest2d_backward"
    _upsample(op, dy, factor)
    _require(
        dy.shape[2] % factor[0] == 0 and dy.shape[3] % factor[1] == 0,
        lambda: f"{op}: expected dy to have a multiple of {list(factor)} pixels, but got {list(dy.shape)}",
    )


CHECKS: dict[str, Callable[..., None]] = {
    "conv2d": _conv2d,
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
}
