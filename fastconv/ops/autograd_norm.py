"""Derivatives of batch_norm_act. The first runs on our kernels; the second, which hardly anyone wants, is taken by
autograd from the formula written out in torch's arithmetic."""

from typing import Any

import torch
from torch import Tensor

from .autograd_conv import Grads, Rule
from .autograd_other import alpha_grad
from .layout import in_format, is_channels_last
from .library import Operators

# --- batch_norm_stats(x, backend) -> (mean, var): their gradient is part of batch_norm_act's


def stats_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


def stats_backward(ops: Operators, ctx: Any, *_: Any) -> Grads:
    return None, None


# --- batch_norm_act(x, mean, var, weight, bias, training, eps, residual, act, act_param, alpha, backend)


def norm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, weight, bias, ctx.training, ctx.eps, residual, ctx.act, ctx.param, alpha, ctx.backend = inputs
    ctx.save_for_backward(x, mean, var, weight, bias, residual, alpha)


def norm_backward(ops: Operators, ctx: Any, dy: Tensor) -> Grads:
    x, mean, var, weight, bias, residual, alpha = ctx.saved_tensors
    dy = in_format(dy, is_channels_last(x))
    shared = (x, mean, var, weight, bias, ctx.training, ctx.eps, residual)
    dx, dweight, dbias, dresidual = ops.batch_norm_act_backward(dy, *shared, ctx.act, ctx.param, alpha, ctx.backend)
    dalpha = None
    if ctx.needs_input_grad[10]:
        before = ops.batch_norm_act(*shared, "identity", 0.0, None, ctx.backend)
        dalpha = alpha_grad(ops, dy, before, alpha, ctx.backend)
    return (
        dx,
        None,
        None,
        None if weight is None else dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        None,
        None,
        None if residual is None else dresidual,
        None,
        None,
        dalpha,
        None,
    )


# --- batch_norm_act_backward(dy, x, mean, var, weight, bias, training, eps, residual, act, act_param, alpha, backend)


def norm_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, mean, var, weight, bias, ctx.training, ctx.eps, residual, ctx.act, ctx.param, alpha, ctx.backend = inputs
    ctx.save_for_backward(dy, x, mean, var, weight, bias, residual, alpha)


def _gradients(ops: Operators, ctx: Any, tensors: list[Any], mean: Tensor, var: Tensor) -> list[Tensor]:
    """What batch_norm_act_backward computes, in operations that autograd knows."""
    kind = tensors[1].dtype
    # In the accumulate type, as the kernels compute.
    wide: list[Any] = [None if t is None else t.to(torch.promote_types(kind, torch.float32)) for t in tensors]
    dy, x, weight, bias, residual, alpha = wide
    if ctx.training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    spread = (1, -1, 1, 1)
    factor = (var + ctx.eps).rsqrt().view(spread)
    normal = (x - mean.view(spread)) * factor
    before = normal if weight is None else normal * weight.view(spread)
    before = before if bias is None else before + bias.view(spread)
    before = before if residual is None else before + residual
    dz = ops.activation_backward(dy, before, ctx.act, ctx.param, alpha, 1, ctx.backend)
    dweight, dbias = (dz * normal).sum((0, 2, 3)), dz.sum((0, 2, 3))
    dx = dz
    if ctx.training:
        pixels = x.numel() // x.shape[1]
        dx = dx - (dbias.view(spread) + normal * dweight.view(spread)) / pixels
    dx = dx * (factor if weight is None else factor * weight.view(spread))
    return [dx.to(kind), dweight, dbias, *([] if residual is None else [dz.to(kind)])]


def norm_grad_backward(ops: Operators, ctx: Any, *gradients: Tensor) -> Grads:
    dy, x, mean, var, weight, bias, residual, alpha = ctx.saved_tensors
    # A leaf of its own for every operand, unless a third derivative is wanted.
    operands = [dy, x, weight, bias, residual, alpha]
    with torch.enable_grad():
        if not any(g.requires_grad for g in gradients):
            operands = [None if t is None else t.detach().requires_grad_() for t in operands]
        results = _gradients(ops.recording, ctx, operands, mean, var)
    wanted = [t for t in operands if t is not None and t.requires_grad]
    cotangents = [g.to(y.dtype) for g, y in zip(gradients, results, strict=False)]
    found = iter(torch.autograd.grad(results, wanted, cotangents, allow_unused=True, create_graph=True))
    d_dy, d_x, d_weight, d_bias, d_residual, d_alpha = (
        next(found) if t is not None and t.requires_grad else None for t in operands
    )
    return d_dy, d_x, None, None, d_weight, d_bias, None, None, d_residual, None, None, d_alpha, None


RULES: dict[str, Rule] = {
    "batch_norm_stats": (stats_setup, stats_backward),
    "batch_norm_act": (norm_setup, norm_backward),
    "batch_norm_act_backward": (norm_grad_setup, norm_grad_backward),
}
