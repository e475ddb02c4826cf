"""The namespace fastconv_reference: the operators' schemas with the NumPy reference behind them.

Inputs are widened to float64, results rounded once to the input's dtype; strides are those of the fake, as for every
other backend. Slow by design: it is what the kernels are compared with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastconv import reference as ref

from . import fakes
from .library import NATIVE, REFERENCE, native, operator_names

Array = Any


def _array(t: Tensor) -> Array:
    if t.dtype == torch.int64:
        return t.detach().cpu().numpy()
    return t.detach().to("cpu", torch.float64).numpy()


def _conv2d(x, w, bias, stride, padding, dilation, groups, scale, shift, residual, act, param, alpha, *_):  # type: ignore[no-untyped-def]
    return ref.conv2d(x, w, bias, stride, padding, dilation, groups, scale, shift, residual, act, param, alpha)


def _upsample_conv2d(*arguments: Any) -> Array:
    return ref.upsample_conv2d(*arguments[:14])


def _activation(x: Array, act: str, param: float, alpha: Array | None, _: str) -> Array:
    return ref.activation(x, act, param, alpha)


def _activation_backward(dy: Array, x: Array, act: str, param: float, alpha: Array | None, order: int, _: str) -> Array:
    if order == 1:
        return ref.activation_backward(dy, x, act, param, alpha)
    return np.zeros_like(x) if act == "prelu" else dy * ref.activation_second_derivative(x, act, param)


def _gemm(a, b, bias, transpose_a, transpose_b, residual, act, param, alpha, *_):  # type: ignore[no-untyped-def]
    return ref.gemm(a, b, bias, transpose_a, transpose_b, residual, act, param, alpha)


def _max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices, _):  # type: ignore[no-untyped-def]
    y, indices = ref.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    return y, indices if return_indices else np.zeros(0, np.int64)


def _adaptive_max_pool2d(x: Array, size: Sequence[int], return_indices: bool, _: str) -> tuple[Array, Array]:
    y, indices = ref.adaptive_max_pool2d(x, size)
    return y, indices if return_indices else np.zeros(0, np.int64)


def _batch_norm_act(x, mean, var, weight, bias, _, eps, *rest):  # type: ignore[no-untyped-def]
    return ref.batch_norm_act(x, mean, var, weight, bias, eps, *rest[:-1])


def _batch_norm_act_backward(*arguments: Any) -> tuple[Array, ...]:
    dx, dweight, dbias, dresidual = ref.batch_norm_act_backward(*arguments[:-1])
    return dx, dweight, dbias, np.zeros(0) if arguments[8] is None else dresidual


def _block(compute: Callable[..., Any], count: int) -> Callable[..., Any]:
    return lambda *arguments: compute(*arguments[:count])


# What each operator computes, on arrays: the arguments are the schema's, tensors replaced by float64 arrays.
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "upsample_conv2d": _upsample_conv2d,
    "conv_transpose2d": lambda x, w, bias, stride, padding, extra, groups, dilation, *_: ref.conv_transpose2d(
        x, w, bias, stride, padding, extra, groups, dilation
    ),
    "conv2d_input_grad": lambda dy, w, size, stride, padding, dilation, groups, *_: ref.conv2d_input_grad(
        dy, w, size, stride, padding, dilation, groups
    ),
    "conv2d_weight_grad": lambda dy, x, size, stride, padding, dilation, groups, *_: ref.conv2d_weight_grad(
        dy, x, size, stride, padding, dilation, groups
    ),
    "inverted_residual": _block(ref.inverted_residual, 20),
    "depthwise_pointwise": _block(ref.depthwise_pointwise, 15),
    "conv_max_pool": _block(ref.conv_max_pool, 15),
    "channel_sum": lambda dy, _: ref.conv2d_bias_grad(dy),
    "gemm": _gemm,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": lambda dy, indices, size, *_: ref.max_pool2d_backward(dy, indices, size),
    "avg_pool2d": lambda x, kernel, stride, padding, ceil, include, divisor, _: ref.avg_pool2d(
        x, kernel, stride, padding, ceil, include, divisor or None
    ),
    "avg_pool2d_backward": lambda dy, size, kernel, stride, padding, ceil, include, divisor, _: ref.avg_pool2d_backward(
        dy, size, kernel, stride, padding, ceil, include, divisor or None
    ),
    "adaptive_avg_pool2d": lambda x, size, _: ref.adaptive_avg_pool2d(x, size),
    "adaptive_avg_pool2d_backward": lambda dy, size, _: ref.adaptive_avg_pool2d_backward(dy, size),
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "adaptive_max_pool2d_backward": lambda dy, indices, size, _: ref.max_pool2d_backward(dy, indices, size),
    "activation": _activation,
    "activation_backward": _activation_backward,
    "prelu_alpha_grad": lambda dy, x, size, _: ref.prelu_alpha_grad(dy, x, size),
    "softmax": lambda x, dim, _: ref.softmax(x, dim),
    "softmax_backward": lambda dy, y, dim, _: ref.softmax_backward(dy, y, dim),
    "conv2d_stats": _block(ref.conv2d_stats, 7),
    "batch_norm_stats": lambda x, _: ref.batch_norm_stats(x),
    "batch_norm_act": _batch_norm_act,
    "batch_norm_act_backward": _batch_norm_act_backward,
    "im2col": lambda x, kernel, stride, padding, dilation, _: ref.im2col(x, kernel, stride, padding, dilation),
    "col2im": lambda x, size, kernel, stride, padding, dilation, _: ref.col2im(
        x, size, kernel, stride, padding, dilation
    ),
    "upsample_nearest2d": lambda x, factor, _: ref.upsample_nearest2d(x, scale_factor=factor),
    "upsample_nearest2d_backward": lambda dy, factor, _: ref.upsample_nearest2d_backward(
        dy, (*dy.shape[:2], dy.shape[2] // factor[0], dy.shape[3] // factor[1]), scale_factor=factor
    ),
}


def _kernel(name: str) -> Callable[..., Any]:
    compute, fake = IMPLEMENTATIONS[name], fakes.checked(name)

    def run(*arguments: Any) -> Any:
        shaped = fake(*arguments)
        if all(y.numel() == 0 for y in (shaped if isinstance(shaped, tuple) else (shaped,))):
            return shaped
        results = compute(*(_array(a) if isinstance(a, Tensor) else a for a in arguments))
        if isinstance(shaped, tuple):
            return tuple(_fill(y, values) for y, values in zip(shaped, results, strict=True))
        return _fill(shaped, results)

    return run


def _fill(y: Tensor, values: Array) -> Tensor:
    return y.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(y.shape))


def _activation_in_place(x: Tensor, act: str, param: float, alpha: Tensor | None, backend: str) -> None:
    fakes.checked("activation_")(x, act, param, alpha, backend)
    _fill(x, ref.activation(_array(x), act, param, None if alpha is None else _array(alpha)))


def register() -> torch.library.Library:
    """Defines the namespace. The result must be kept: the operators live as long as it does."""
    library = torch.library.Library(REFERENCE, "DEF")
    for name in operator_names(NATIVE):
        if name not in IMPLEMENTATIONS and name != "activation_":
            continue  # packing: the reference has no format of its own
        library.define(str(getattr(native, name)._schema).removeprefix(NATIVE + "::"))
        kernel = _activation_in_place if name == "activation_" else _kernel(name)
        library.impl(name, kernel, "CompositeExplicitAutograd")
    return library
