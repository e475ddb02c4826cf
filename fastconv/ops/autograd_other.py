"""Derivatives of pooling, activations, softmax and rearrangements. Linear maps (average pooling, im2col, upsampling)
and their transposes differentiate into each other; activations have two derivatives, like torch's."""

from typing import Any

import torch
from torch import Tensor

from .autograd_conv import Grads, Rule
from .layout import in_format, is_channels_last
from .library import Operators

# --- max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, backend) -> (y, indices)


def max_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *window, return_indices, backend = inputs
    if not return_indices:
        raise RuntimeError("fastconv::max_pool2d: expected return_indices=True where a gradient is wanted")
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.size, ctx.channels_last, ctx.window, ctx.backend = x.shape, is_channels_last(x), window, backend


def max_pool_backward(ops: Operators, ctx: Any, dy: Tensor, _: Any) -> Grads:
    (indices,) = ctx.saved_tensors
    dy = in_format(dy, ctx.channels_last)
    return ops.max_pool2d_backward(dy, indices, ctx.size, *ctx.window, ctx.backend), *([None] * 7)


# --- max_pool2d_backward(dy, indices, input_size, window..., backend): the transpose picks the chosen pixels


def max_pool_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.arguments = len(inputs)


def max_pool_grad_backward(ops: Operators, ctx: Any, ddx: Tensor) -> Grads:
    (indices,) = ctx.saved_tensors
    flat = indices.clamp(min=0).flatten(2)  # -1 marks a window without a pixel
    picked = ddx.flatten(2).gather(2, flat).view(indices.shape)
    return torch.where(indices >= 0, picked, 0), *([None] * (ctx.arguments - 1))


# --- adaptive_max_pool2d(x, output_size, return_indices, backend) -> (y, indices)


def adaptive_max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, return_indices, backend = inputs
    if not return_indices:
        raise RuntimeError("fastconv::adaptive_max_pool2d: expected return_indices=True where a gradient is wanted")
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.size, ctx.channels_last, ctx.backend = x.shape, is_channels_last(x), backend


def adaptive_max_backward(ops: Operators, ctx: Any, dy: Tensor, _: Any) -> Grads:
    (indices,) = ctx.saved_tensors
    dy = in_format(dy, ctx.channels_last)
    return ops.adaptive_max_pool2d_backward(dy, indices, ctx.size, ctx.backend), None, None, None


# --- avg_pool2d(x, window..., backend) and avg_pool2d_backward(dy, input_size, window..., backend)


def avg_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.rest = inputs
    ctx.size, ctx.channels_last = x.shape, is_channels_last(x)


def avg_pool_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    dy = in_format(dy, ctx.channels_last)
    return ops.avg_pool2d_backward(dy, ctx.size, *ctx.rest), *([None] * len(ctx.rest))


def avg_pool_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, *ctx.rest = inputs


def avg_pool_grad_backward(ops: Operators, ctx: Any, ddx: Tensor) -> Grads:
    return ops.avg_pool2d(ddx, *ctx.rest), *([None] * (len(ctx.rest) + 1))


# --- adaptive_avg_pool2d(x, output_size, backend) and its transpose


def adaptive_avg_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, ctx.backend = inputs
    ctx.size, ctx.channels_last = x.shape, is_channels_last(x)


def adaptive_avg_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    dy = in_format(dy, ctx.channels_last)
    return ops.adaptive_avg_pool2d_backward(dy, ctx.size, ctx.backend), None, None


def adaptive_avg_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size, ctx.backend = inputs[0].shape[2:], inputs[2]


def adaptive_avg_grad_backward(ops: Operators, ctx: Any, ddx: Tensor) -> Grads:
    return ops.adaptive_avg_pool2d(ddx, ctx.size, ctx.backend), None, None


# --- activation(x, act, act_param, alpha, backend)


def derives_from_result(act: str, param: float) -> bool:
    """Whether act' at y = act(x) is act' at x, so that x may be overwritten."""
    return act in ("relu", "relu6") or (act == "leaky_relu" and param >= 0)


def activation_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.act, ctx.param, alpha, ctx.backend = inputs
    # Like torch: ReLU's result, which the next layer keeps anyway; x can be freed.
    ctx.save_for_backward(output if ctx.act == "relu" else x, alpha)


def activation_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    x, alpha = ctx.saved_tensors
    dx = dalpha = None
    if ctx.needs_input_grad[0]:
        dx = ops.activation_backward(dy, x, ctx.act, ctx.param, alpha, 1, ctx.backend)
    if ctx.needs_input_grad[3]:
        dalpha = alpha_grad(ops, dy, x, alpha, ctx.backend)
    return dx, None, None, dalpha, None


def alpha_grad(ops: Operators, dy: Tensor, x: Tensor, alpha: Tensor, backend: str) -> Tensor:
    """dalpha in alpha's shape and dtype."""
    if alpha.numel() == x.numel() and alpha.shape == x.shape:  # a slope for each element, the batch included
        return torch.where(x > 0, 0, dy * x).to(alpha.dtype)
    sample = alpha[0] if alpha.dim() == x.dim() and alpha.dim() > 2 else alpha
    return ops.prelu_alpha_grad(dy, x, sample.shape, backend).view(alpha.shape).to(alpha.dtype)


# --- activation_backward(dy, x, act, act_param, alpha, order, backend) = dy * act'(x), act''(x) for order 2


def activation_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, ctx.act, ctx.param, alpha, ctx.order, ctx.backend = inputs
    ctx.save_for_backward(dy, x, alpha)


def activation_grad_backward(ops: Operators, ctx: Any, g: Tensor) -> Grads:
    dy, x, alpha = ctx.saved_tensors
    g_dy = g_x = g_alpha = None
    if ctx.needs_input_grad[0]:
        g_dy = ops.activation_backward(g, x, ctx.act, ctx.param, alpha, ctx.order, ctx.backend)
    if ctx.needs_input_grad[1]:
        if ctx.order > 1:
            raise RuntimeError(f"fastconv::activation_backward: {ctx.act} has no third derivative here")
        g_x = ops.activation_backward(g * dy, x, ctx.act, ctx.param, alpha, 2, ctx.backend)
    if ctx.needs_input_grad[4] and ctx.order == 1:
        # act' is alpha where x <= 0: the same sum as for alpha itself, with x replaced by -1 there.
        g_alpha = alpha_grad(ops, -g * dy, torch.where(x > 0, 1, -1).to(x.dtype), alpha, ctx.backend)
    return g_dy, g_x, None, None, g_alpha, None, None


# --- prelu_alpha_grad(dy, x, alpha_size, backend) = sum of dy * x where x <= 0


def alpha_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def alpha_grad_backward(ops: Operators, ctx: Any, g: Tensor) -> Grads:
    dy, x = ctx.saved_tensors
    if g.dim() == 1 and x.dim() > 1:
        g = g.view(1, -1, *([1] * (x.dim() - 2)))
    spread = torch.where(x > 0, 0, g)
    return spread * x, spread * dy, None, None


# --- softmax(x, dim, backend) and softmax_backward(dy, y, dim, backend)


def softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.dim, ctx.backend = inputs
    ctx.save_for_backward(output)


def softmax_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    (y,) = ctx.saved_tensors
    return ops.softmax_backward(dy, y, ctx.dim, ctx.backend), None, None


def softmax_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, y, ctx.dim, ctx.backend = inputs
    ctx.save_for_backward(dy, y)


def softmax_grad_backward(ops: Operators, ctx: Any, g: Tensor) -> Grads:
    dy, y = ctx.saved_tensors
    g_dy = ops.softmax_backward(g, y, ctx.dim, ctx.backend)
    dots = (dy * y).sum(ctx.dim, keepdim=True), (g * y).sum(ctx.dim, keepdim=True)
    return g_dy, g * (dy - dots[0]) - dy * dots[1], None, None


# --- im2col(x, kernel_size, stride, padding, dilation, backend) and col2im(x, output_size, ...)


def im2col_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.rest = inputs
    ctx.size = x.shape[2:]


def im2col_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    return ops.col2im(dy, ctx.size, *ctx.rest), *([None] * 5)


def col2im_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, *ctx.rest = inputs


def col2im_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    return ops.im2col(dy, *ctx.rest), *([None] * 6)


# --- upsample_nearest2d(x, scale_factor, backend) and its transpose


def upsample_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.factor, ctx.backend = inputs
    ctx.channels_last = is_channels_last(x)


def upsample_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    dy = in_format(dy, ctx.channels_last)
    return ops.upsample_nearest2d_backward(dy, ctx.factor, ctx.backend), None, None


def upsample_grad_backward(ops: Operators, ctx: Any, ddx: Tensor) -> Grads:
    return ops.upsample_nearest2d(ddx, ctx.factor, ctx.backend), None, None


RULES: dict[str, Rule] = {
    "max_pool2d": (max_pool_setup, max_pool_backward),
    "max_pool2d_backward": (max_pool_grad_setup, max_pool_grad_backward),
    "adaptive_max_pool2d": (adaptive_max_setup, adaptive_max_backward),
    "adaptive_max_pool2d_backward": (max_pool_grad_setup, max_pool_grad_backward),
    "avg_pool2d": (avg_pool_setup, avg_pool_backward),
    "avg_pool2d_backward": (avg_pool_grad_setup, avg_pool_grad_backward),
    "adaptive_avg_pool2d": (adaptive_avg_setup, adaptive_avg_backward),
    "adaptive_avg_pool2d_backward": (adaptive_avg_grad_setup, adaptive_avg_grad_backward),
    "activation": (activation_setup, activation_backward),
    "activation_backward": (activation_grad_setup, activation_grad_backward),
    "prelu_alpha_grad": (alpha_grad_setup, alpha_grad_backward),
    "softmax": (softmax_setup, softmax_backward),
    "softmax_backward": (softmax_grad_setup, softmax_grad_backward),
    "im2col": (im2col_setup, im2col_backward),
    "col2im": (col2im_setup, col2im_backward),
    "upsample_nearest2d": (upsample_setup, upsample_backward),
    "upsample_nearest2d_backward": (upsample_setup, upsample_grad_backward),
}
