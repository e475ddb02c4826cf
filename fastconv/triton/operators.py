"""What each operator of the schema launches: IMPLEMENTATIONS[name] takes the schema's arguments and the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import conv, elementwise, gemm, norm, pooling, reductions, resample
from .epilogue import PLAIN, Epilogue
from .pooling import Windows

Ints = Sequence[int]
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check(op: str, tensors: Sequence[Tensor], backend: str) -> None:
    """Refuses what no kernel here takes, with the reason."""
    for t in tensors:
        if not (t.is_cuda or t.is_cpu):
            raise NotImplementedError(f"{op}: triton: no kernel for tensors of {t.device.type}")
        if t.is_cpu and backend != "triton_interpreted":
            raise NotImplementedError(f"{op}: backend triton does not take tensors of the CPU")
        if t.dtype not in _FLOATS and t.dtype is not torch.int64:
            raise NotImplementedError(f"{op}: triton: no kernel for elements of {t.dtype}")
    if len({t.device for t in tensors}) > 1:
        raise RuntimeError(
            f"{op}: expected all tensors on one device, but got {sorted({str(t.device) for t in tensors})}"
        )


def _conv2d(
    y: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    scale: Any, shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, *_: Any,
) -> None:  # fmt: skip
    epilogue = Epilogue.of(y, bias, scale, shift, residual, act, param, alpha)
    conv.conv2d(x, y, weight, (stride, padding, dilation, groups), epilogue, algo)


def _upsample_conv2d(
    y: Tensor, x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints,
    groups: int, scale: Any, shift: Any, residual: Any, act: str, param: float, alpha: Any, algo: str, *_: Any,
) -> None:  # fmt: skip
    epilogue = Epilogue.of(y, bias, scale, shift, residual, act, param, alpha)
    conv.upsample_conv2d(x, y, weight, factor, (stride, padding, dilation, groups), epilogue, algo)


def _conv_transpose2d(
    y: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, extra: Ints, groups: int,
    dilation: Ints, algo: str, *_: Any,
) -> None:  # fmt: skip
    conv.conv_transpose2d(x, y, weight, bias, (stride, padding, dilation, groups), algo)


def _input_grad(
    dx: Tensor, dy: Tensor, weight: Tensor, size: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    algo: str, *_: Any,
) -> None:  # fmt: skip
    geometry = (stride, (padding[0], padding[2]), dilation, groups)
    conv.input_grad("conv2d_input_grad", dy, dx, weight, geometry, PLAIN, algo)


def _weight_grad(
    dw: Tensor, dy: Tensor, x: Tensor, size: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int,
    algo: str, *_: Any,
) -> None:  # fmt: skip
    conv.weight_grad(dy, x, dw, (stride, padding, dilation, groups), algo)


def _gemm(
    y: Tensor, a: Tensor, b: Tensor, bias: Any, transpose_a: bool, transpose_b: bool, residual: Any, act: str,
    param: float, alpha: Any, algo: str, *_: Any,
) -> None:  # fmt: skip
    epilogue = Epilogue.of(y, bias, None, None, residual, act, param, alpha)
    gemm.gemm(a, b, y, transpose_a, transpose_b, epilogue, algo)


def _max_pool2d(
    out: tuple[Tensor, Tensor], x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool,
    return_indices: bool, _: str,
) -> None:  # fmt: skip
    y, indices = out
    windows = Windows(kernel, stride, padding, dilation)
    pooling.pool(x, y, indices if return_indices else None, windows, largest=True)


def _adaptive_max_pool2d(out: tuple[Tensor, Tensor], x: Tensor, size: Ints, return_indices: bool, _: str) -> None:
    y, indices = out
    pooling.pool(x, y, indices if return_indices else None, Windows(), largest=True)


def _avg_pool2d(
    y: Tensor,
    x: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    include: bool,
    divisor: int,
    _: str,
) -> None:
    windows = Windows(kernel, stride, padding, include_padding=include, divisor=divisor)
    pooling.pool(x, y, None, windows, largest=False)


def _avg_pool2d_backward(
    dx: Tensor, dy: Tensor, size: Ints, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool, include: bool,
    divisor: int, _: str,
) -> None:  # fmt: skip
    pooling.pool_backward(dy, None, dx, Windows(kernel, stride, padding, include_padding=include, divisor=divisor))


def _max_pool2d_backward(
    dx: Tensor,
    dy: Tensor,
    indices: Tensor,
    size: Ints,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    *_: Any,
) -> None:
    pooling.pool_backward(dy, indices, dx, Windows(kernel, stride, padding, dilation))


def _conv2d_stats(
    out: tuple[Tensor, Tensor, Tensor], x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints,
    dilation: Ints, groups: int, *_: Any,
) -> None:  # fmt: skip
    y, mean, var = out
    epilogue = Epilogue.of(y, bias, None, None, None, "identity", 0.0, None)
    conv.conv2d(x, y, weight, (stride, padding, dilation, groups), epilogue, "")
    norm.stats(y, mean, var)


def _batch_norm_act(
    y: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, training: bool, eps: float, residual: Any,
    act: str, param: float, alpha: Any, _: str,
) -> None:  # fmt: skip
    epilogue = Epilogue.of(y, None, None, None, residual, act, param, alpha)
    norm.norm_act(x, y, mean, var, weight, bias, eps, epilogue)


def _batch_norm_act_backward(
    out: tuple[Tensor, Tensor, Tensor, Tensor], dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Any,
    bias: Any, training: bool, eps: float, residual: Any, act: str, param: float, alpha: Any, _: str,
) -> None:  # fmt: skip
    epilogue = Epilogue.of(out[0], None, None, None, residual, act, param, alpha)
    norm.norm_act_backward(out, dy, x, mean, var, weight, bias, training, eps, epilogue)


IMPLEMENTATIONS: dict[str, Callable[..., None]] = {
    "conv2d": _conv2d,
    "upsample_conv2d": _upsample_conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "conv2d_input_grad": _input_grad,
    "conv2d_weight_grad": _weight_grad,
    "gemm": _gemm,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": _max_pool2d_backward,
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "adaptive_avg_pool2d": lambda y, x, size, _: pooling.pool(x, y, None, Windows(), largest=False),
    "adaptive_avg_pool2d_backward": lambda dx, dy, size, _: pooling.pool_backward(dy, None, dx, Windows()),
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "adaptive_max_pool2d_backward": lambda dx, dy, indices, size, _: pooling.pool_backward(dy, indices, dx, Windows()),
    "activation": lambda y, x, act, param, alpha, _: elementwise.activation(x, y, act, param, alpha),
    "activation_": lambda _, x, act, param, alpha, backend: elementwise.activation(x, x, act, param, alpha),
    "activation_backward": lambda dx, dy, x, act, param, alpha, order, _: elementwise.activation_backward(
        dy, x, dx, act, param, alpha, order
    ),
    "prelu_alpha_grad": lambda y, dy, x, size, _: reductions.prelu_alpha_grad(dy, x, y),
    "softmax": lambda y, x, dim, _: elementwise.softmax(x, y, dim),
    "softmax_backward": lambda dx, dy, y, dim, _: elementwise.softmax_backward(dy, y, dx, dim),
    "conv2d_stats": _conv2d_stats,
    "batch_norm_stats": lambda out, x, _: norm.stats(x, *out),
    "batch_norm_act": _batch_norm_act,
    "batch_norm_act_backward": _batch_norm_act_backward,
    "channel_sum": lambda y, dy, _: reductions.channel_sum(dy, y),
    "im2col": lambda y, x, kernel, stride, padding, dilation, _: resample.im2col(
        x, y, kernel, stride, padding, dilation
    ),
    "col2im": lambda y, x, size, kernel, stride, padding, dilation, _: resample.col2im(
        x, y, kernel, stride, padding, dilation
    ),
    "upsample_nearest2d": lambda y, x, factor, _: resample.upsample(x, y, factor),
    "upsample_nearest2d_backward": lambda dx, dy, factor, _: resample.upsample_backward(dy, dx, factor),
}
