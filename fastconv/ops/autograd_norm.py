"""Derivatives of batch_norm_act, and of convolutions that give its statistics. The first runs on our kernels; the
second, which hardly anyone wants, is taken by autograd from the formula written out in torch's arithmetic."""

from typing import Any, cast

import torch
from torch import Tensor

from .autograd_conv import Grads, Rule, conv2d_grads
from .autograd_other import alpha_grad
from .layout import in_format, is_channels_last, writes_channels_last
from .library import Operators

# --- batch_norm_stats(x, backend) -> (mean, var): their gradient is part of batch_norm_act's


def stats_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


def stats_backward(ops: Operators, ctx: Any, *_: Any) -> Grads:
    return None, None


# --- conv2d_stats(x, weight, bias, stride, padding, dilation, groups, algo, backend) -> (y, mean, var)


def conv2d_stats_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight = inputs[:2]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, *output[:2])
    ctx.geometry, ctx.backend, ctx.channels_last = inputs[3:7], inputs[8], writes_channels_last(x, weight)


def conv2d_stats_backward(
    ops: Operators, ctx: Any, dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None
) -> Grads:
    """batch_norm_act in training gives no gradient to the statistics: it has counted them in y's. Whoever uses them in
    another way gets theirs here."""
    x, weight, y, mean = ctx.saved_tensors
    spread, pixels = (1, -1, 1, 1), y.shape[0] * y.shape[2] * y.shape[3]
    if dvar is not None:
        moved = (y.to(mean.dtype) - mean.view(spread)) * (dvar * 2 / pixels).view(spread)
        dy = moved.to(y.dtype) if dy is None else (dy.to(mean.dtype) + moved).to(y.dtype)
    if dmean is not None:
        moved = (dmean / pixels).view(spread).expand(y.shape)
        dy = moved.to(y.dtype) if dy is None else (dy.to(mean.dtype) + moved).to(y.dtype)
    grads = (None, None, None) if dy is None else conv2d_grads(ops, ctx, x, weight, dy)
    return *grads, *([None] * 6)


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
    dmean = dvar = None
    if not ctx.training and any(ctx.needs_input_grad[1:3]):
        # The sums over dz and over dz * normal are there already.
        factor = (var + ctx.eps).rsqrt()
        scale = factor if weight is None else factor * weight
        dmean = (-scale * dbias).to(mean.dtype)
        dvar = (scale * factor * dweight / -2).to(var.dtype)
    return (
        dx,
        dmean,
        dvar,
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


def normalised(ops: Operators, tensors: list[Any], how: tuple[bool, float, str, float, str]) -> list[Tensor]:
    """What batch_norm_act_backward computes, in operations that autograd knows.

    Args:
        tensors: dy, x, mean, var, weight, bias, residual, alpha.
        how: training, eps, act, act_param, backend.
    """
    training, eps, act, param, backend = how
    kind = tensors[1].dtype
    # In the accumulate type, as the kernels compute.
    wide: list[Any] = [None if t is None else t.to(torch.promote_types(kind, torch.float32)) for t in tensors]
    dy, x, mean, var, weight, bias, residual, alpha = wide
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    spread = (1, -1, 1, 1)
    factor = (var + eps).rsqrt().view(spread)
    normal = (x - mean.view(spread)) * factor
    before = normal if weight is None else normal * weight.view(spread)
    before = before if bias is None else before + bias.view(spread)
    before = before if residual is None else before + residual
    dz = ops.activation_backward(dy, before, act, param, alpha, 1, backend)
    dweight, dbias = (dz * normal).sum((0, 2, 3)), dz.sum((0, 2, 3))
    dx = dz
    if training:
        pixels = x.numel() // x.shape[1]
        dx = dx - (dbias.view(spread) + normal * dweight.view(spread)) / pixels
    dx = dx * (factor if weight is None else factor * weight.view(spread))
    return [dx.to(kind), dweight, dbias, *([] if residual is None else [dz.to(kind)])]


def norm_grad_backward(ops: Operators, ctx: Any, *gradients: Tensor) -> Grads:
    how = (ctx.training, ctx.eps, ctx.act, ctx.param, ctx.backend)
    differentiate = _pulled_back if torch._C._are_functorch_transforms_active() else _differentiated
    found = differentiate(ops, list(ctx.saved_tensors), how, gradients)
    d_dy, d_x, d_mean, d_var, d_weight, d_bias, d_residual, d_alpha = found
    return d_dy, d_x, d_mean, d_var, d_weight, d_bias, None, None, d_residual, None, None, d_alpha, None


def _differentiated(ops: Operators, operands: list[Any], how: Any, gradients: tuple[Tensor, ...]) -> list[Any]:
    # A leaf of its own for every operand, unless a third derivative is wanted.
    with torch.enable_grad():
        if not any(g.requires_grad for g in gradients):
            operands = [None if t is None else t.detach().requires_grad_() for t in operands]
        results = normalised(ops.recording, operands, how)
    wanted = [t for t in operands if t is not None and t.requires_grad]
    cotangents = [g.to(y.dtype) for g, y in zip(gradients, results, strict=False)]
    found = iter(torch.autograd.grad(results, wanted, cotangents, allow_unused=True, create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in operands]


def _pulled_back(ops: Operators, operands: list[Any], how: Any, gradients: tuple[Tensor, ...]) -> list[Any]:
    """Inside a transform tensors have no leaves to make: the same through torch.func."""
    present = [index for index, t in enumerate(operands) if t is not None]

    def run(*values: Tensor) -> list[Tensor]:
        given = dict(zip(present, values, strict=True))
        return normalised(ops, [given.get(index) for index in range(len(operands))], how)

    # Its types promise three values: without has_aux there are two.
    results, pull = cast(Any, torch.func.vjp(run, *(operands[index] for index in present)))
    found = dict(zip(present, pull([g.to(y.dtype) for g, y in zip(gradients, results, strict=False)]), strict=True))
    return [found.get(index) for index in range(len(operands))]


RULES: dict[str, Rule] = {
    "batch_norm_stats": (stats_setup, stats_backward),
    "conv2d_stats": (conv2d_stats_setup, conv2d_stats_backward),
    "batch_norm_act": (norm_setup, norm_backward),
    "batch_norm_act_backward": (norm_grad_setup, norm_grad_backward),
}
