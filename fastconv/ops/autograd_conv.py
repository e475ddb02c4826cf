"""Derivatives of the products: convolutions, transposed convolution, upsample + convolution, matrix products.

They are closed under differentiation: conv2d, conv2d_input_grad and conv2d_weight_grad are the three ways to contract
(x, w, dy) and differentiate into one another, so any order of derivative runs on our own kernels. A fused call (scale,
shift, residual or an activation given) has no derivative of its own; fastconv.functional takes it apart where autograd
records.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .layout import in_format, writes_channels_last
from .library import Operators

Grads = tuple[Any, ...]
Rule = tuple[Callable[..., None], Callable[..., Grads]]


def require_plain(name: str, act: str, *fused: Any) -> None:
    plain = act == "identity"
    for part in fused:  # a generator would take as long as the rest of a small layer's bookkeeping
        plain = plain and part is None
    if not plain:
        raise RuntimeError(
            f"fastconv::{name}: a call with scale, shift, residual or an activation has no gradient of its own; "
            f"call fastconv.functional.{name}, which takes it apart"
        )


def bias_grad(ops: Operators, dy: Tensor, channels: int, backend: str) -> Tensor:
    # A convolution without input channels has an empty output, and torch's bias gradient is zero then.
    return ops.channel_sum(dy, backend) if dy.shape[1] == channels else dy.new_zeros(channels)


# --- conv2d(x, weight, bias, stride, padding, dilation, groups, scale, shift, residual, act, act_param, alpha, algo,
#            backend, packed)


def conv2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight = inputs[:2]
    require_plain("conv2d", inputs[10], *inputs[7:10])
    ctx.save_for_backward(x, weight)
    ctx.geometry, ctx.backend, ctx.channels_last = inputs[3:7], inputs[14], writes_channels_last(x, weight)


def conv2d_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    x, weight = ctx.saved_tensors
    return *conv2d_grads(ops, ctx, x, weight, dy), *([None] * 13)


def conv2d_grads(ops: Operators, ctx: Any, x: Tensor, weight: Tensor, dy: Tensor) -> Grads:
    """dx, dw, db as far as they are wanted."""
    dx = dw = db = None
    dy = in_format(dy, ctx.channels_last)
    if ctx.needs_input_grad[0]:
        dx = ops.conv2d_input_grad(dy, weight, x.shape, *ctx.geometry, "", ctx.backend)
    if ctx.needs_input_grad[1]:
        dw = ops.conv2d_weight_grad(dy, x, weight.shape, *ctx.geometry, "", ctx.backend)
    if ctx.needs_input_grad[2]:
        db = bias_grad(ops, dy, weight.shape[0], ctx.backend)
    return dx, dw, db


# --- conv2d_input_grad(dy, weight, input_size, stride, padding, dilation, groups, algo, backend)


def input_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, weight, _, *geometry = inputs[:7]
    ctx.save_for_backward(dy, weight)
    ctx.geometry, ctx.backend = geometry, inputs[8]


def input_grad_backward(ops: Operators, ctx: Any, ddx: Tensor) -> Grads:
    dy, weight = ctx.saved_tensors
    g_dy = g_weight = None
    if ctx.needs_input_grad[0]:
        g_dy = plain_conv2d(ops, ddx, weight, ctx.geometry, ctx.backend)
    if ctx.needs_input_grad[1]:
        g_weight = ops.conv2d_weight_grad(dy, ddx, weight.shape, *ctx.geometry, "", ctx.backend)
    return g_dy, g_weight, *([None] * 7)


# --- conv2d_weight_grad(dy, x, weight_size, stride, padding, dilation, groups, algo, backend)


def weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, _, *geometry = inputs[:7]
    ctx.save_for_backward(dy, x)
    ctx.geometry, ctx.backend = geometry, inputs[8]


def weight_grad_backward(ops: Operators, ctx: Any, ddw: Tensor) -> Grads:
    dy, x = ctx.saved_tensors
    g_dy = g_x = None
    if ctx.needs_input_grad[0]:
        g_dy = plain_conv2d(ops, x, ddw, ctx.geometry, ctx.backend)
    if ctx.needs_input_grad[1]:
        g_x = ops.conv2d_input_grad(dy, ddw, x.shape, *ctx.geometry, "", ctx.backend)
    return g_dy, g_x, *([None] * 7)


def plain_conv2d(ops: Operators, x: Tensor, weight: Tensor, geometry: Any, backend: str) -> Tensor:
    return ops.conv2d(x, weight, None, *geometry, None, None, None, "identity", 0.0, None, "", backend, None)


# --- conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation, algo, backend, packed)


def transpose_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight = inputs[:2]
    stride, padding, extra, groups, dilation = inputs[3:8]
    ctx.save_for_backward(x, weight)
    ctx.channels_last, ctx.backend = writes_channels_last(x, weight), inputs[9]
    # The convolution that this is the input gradient of; rows that only output_padding adds lie beyond its reach, so
    # they come off the padding behind, and off the image where there is no padding left.
    behind = [p - e for p, e in zip(padding, extra, strict=True)]
    ctx.crop = [min(b, 0) for b in behind]
    sides = (padding[0], max(behind[0], 0), padding[1], max(behind[1], 0))
    ctx.geometry = (stride, sides, dilation, groups)


def transpose_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    x, weight = ctx.saved_tensors
    dx = dw = db = None
    dy = in_format(dy, ctx.channels_last)
    height, width = (size + crop for size, crop in zip(dy.shape[2:], ctx.crop, strict=True))
    image = dy[:, :, :height, :width] if any(ctx.crop) else dy
    if ctx.needs_input_grad[0]:
        dx = plain_conv2d(ops, image, weight, ctx.geometry, ctx.backend)
    if ctx.needs_input_grad[1]:
        dw = ops.conv2d_weight_grad(x, image, weight.shape, *ctx.geometry, "", ctx.backend)
    if ctx.needs_input_grad[2]:
        db = ops.channel_sum(dy, ctx.backend)
    return dx, dw, db, *([None] * 8)


# --- upsample_conv2d(x, weight, bias, scale_factor, stride, padding, dilation, groups, scale, shift, residual, act,
#                     act_param, alpha, algo, backend, packed)


def upsample_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, factor, *geometry = inputs[:8]
    require_plain("upsample_conv2d", inputs[11], *inputs[8:11])
    ctx.save_for_backward(x, weight)
    ctx.factor, ctx.geometry, ctx.backend = factor, geometry, inputs[15]
    ctx.channels_last = writes_channels_last(x, weight)


def upsample_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    x, weight = ctx.saved_tensors
    dx = dw = db = None
    dy = in_format(dy, ctx.channels_last)
    if ctx.needs_input_grad[0]:
        size = [*x.shape[:2], x.shape[2] * ctx.factor[0], x.shape[3] * ctx.factor[1]]
        large = ops.conv2d_input_grad(dy, weight, size, *ctx.geometry, "", ctx.backend)
        dx = ops.upsample_nearest2d_backward(large, ctx.factor, ctx.backend)
    if ctx.needs_input_grad[1]:
        large = ops.upsample_nearest2d(x, ctx.factor, ctx.backend)
        dw = ops.conv2d_weight_grad(dy, large, weight.shape, *ctx.geometry, "", ctx.backend)
    if ctx.needs_input_grad[2]:
        db = bias_grad(ops, dy, weight.shape[0], ctx.backend)
    return dx, dw, db, *([None] * 14)


# --- gemm(a, b, bias, transpose_a, transpose_b, residual, act, act_param, alpha, algo, backend, packed)


def gemm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b = inputs[:2]
    require_plain("gemm", inputs[6], inputs[5])
    ctx.save_for_backward(a, b)
    ctx.transposed, ctx.backend = inputs[3:5], inputs[10]


def gemm_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    a, b = ctx.saved_tensors
    transpose_a, transpose_b = ctx.transposed

    def product(left: Tensor, right: Tensor, turn_left: bool, turn_right: bool) -> Tensor:
        return ops.gemm(left, right, None, turn_left, turn_right, None, "identity", 0.0, None, "", ctx.backend, None)

    da = db = dbias = None
    if ctx.needs_input_grad[0]:  # d op(a) = dy op(b)^T, turned as a is stored
        da = product(b, dy, transpose_b, True) if transpose_a else product(dy, b, False, not transpose_b)
    if ctx.needs_input_grad[1]:  # d op(b) = op(a)^T dy
        db = product(dy, a, True, transpose_a) if transpose_b else product(a, dy, not transpose_a, False)
    if ctx.needs_input_grad[2]:
        dbias = ops.channel_sum(dy.reshape(-1, dy.shape[-1], 1, 1), ctx.backend)
    return da, db, dbias, *([None] * 9)


# --- channel_sum(dy, backend)


def channel_sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.shape = inputs[0].shape


def channel_sum_backward(ops: Operators, ctx: Any, dsum: Tensor) -> Grads:
    return dsum.view(1, -1, 1, 1).expand(ctx.shape), None


RULES: dict[str, Rule] = {
    "conv2d": (conv2d_setup, conv2d_backward),
    "conv2d_input_grad": (input_grad_setup, input_grad_backward),
    "conv2d_weight_grad": (weight_grad_setup, weight_grad_backward),
    "conv_transpose2d": (transpose_setup, transpose_backward),
    "upsample_conv2d": (upsample_setup, upsample_backward),
    "gemm": (gemm_setup, gemm_backward),
    "channel_sum": (channel_sum_setup, channel_sum_backward),
}
