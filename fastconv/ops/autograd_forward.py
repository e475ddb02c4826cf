"""Forward-mode derivatives: dy for given dx, on the same kernels as the functions themselves.

`JVPS[name](ops, arguments, tangents, output)` takes the schema's arguments, their tangents (None where there is none)
and the output; `ops` are the operators as the surrounding transforms see them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import blocks
from .autograd_norm import normalised
from .library import Operators

Arguments = tuple[Any, ...]
Jvp = Callable[[Operators, Arguments, Arguments, Any], Any]


def _sum(parts: list[Tensor]) -> Tensor | None:
    total = None
    for part in parts:
        total = part if total is None else total + part
    return total


def _multilinear(name: str, *factors: int, addend: int | None = None, plain: slice = slice(0, 0)) -> Jvp:
    """A product of the tensors at `factors`, plus one: a sum with each factor replaced by its tangent in turn.

    `plain` are the arguments that must be absent: a fused call is no product.
    """

    def jvp(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
        if any(part not in (None, "identity", 0.0) for part in arguments[plain] if not isinstance(part, Tensor)) or any(
            isinstance(part, Tensor) for part in arguments[plain]
        ):
            raise NotImplementedError(
                f"fastconv::{name}: a call with scale, shift, residual or an activation has no forward-mode derivative "
                f"of its own; call fastconv.functional.{name}, which takes it apart"
            )
        parts = []
        for index in factors:
            if tangents[index] is None:
                continue
            values = list(arguments)
            values[index] = tangents[index]
            if addend is not None:
                values[addend] = None
            parts.append(getattr(ops, name)(*values))
        if addend is not None and tangents[addend] is not None:
            channel = 1 if output.dim() == 4 else output.dim() - 1
            shape = [1] * output.dim()
            shape[channel] = -1
            # A convolution without input channels has an output without channels.
            parts.append((tangents[addend].view(shape) if output.shape[channel] else output).expand_as(output))
        return _sum(parts)

    return jvp


def _picked(name: str) -> Jvp:
    """Max pooling: the tangents of the chosen pixels."""

    def jvp(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
        if tangents[0] is None:
            return None, None
        indices = output[1]
        if not indices.numel() and output[0].numel():
            raise NotImplementedError(f"fastconv::{name}: expected return_indices=True where a derivative is wanted")
        return _at(tangents[0], indices), None

    return jvp


def _at(values: Tensor, indices: Tensor) -> Tensor:
    flat = indices.clamp(min=0).flatten(2)  # -1 marks a window without a pixel
    return torch.where(indices >= 0, values.flatten(2).gather(2, flat).view(indices.shape), 0)


def _spread(alpha: Tensor, x: Tensor) -> Tensor:
    """PReLU's slopes as they broadcast over x."""
    return alpha.view(1, -1, *([1] * (x.dim() - 2))) if alpha.dim() == 1 and x.dim() > 1 else alpha


def _activation(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    x, act, param, alpha, backend = arguments
    parts = []
    if tangents[0] is not None:
        parts.append(ops.activation_backward(tangents[0], x, act, param, alpha, 1, backend))
    if tangents[3] is not None:
        parts.append(torch.where(x > 0, 0, x * _spread(tangents[3], x)))
    return _sum(parts)


def _activation_backward(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    dy, x, act, param, alpha, order, backend = arguments
    parts = []
    if tangents[0] is not None:
        parts.append(ops.activation_backward(tangents[0], x, act, param, alpha, order, backend))
    if tangents[1] is not None:
        if order > 1:
            raise NotImplementedError(f"fastconv::activation_backward: {act} has no third derivative here")
        parts.append(ops.activation_backward(tangents[1] * dy, x, act, param, alpha, 2, backend))
    if tangents[4] is not None and order == 1:
        parts.append(torch.where(x > 0, 0, dy * _spread(tangents[4], x)))
    return _sum(parts)


def _prelu_alpha_grad(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    dy, x, size, backend = arguments
    parts = []
    if tangents[0] is not None:
        parts.append(ops.prelu_alpha_grad(tangents[0], x, size, backend))
    if tangents[1] is not None:
        # The sum is over x <= 0, whatever x's tangent is: dy carries it, and x is replaced by -1 there.
        below = torch.where(x > 0, 1, -1).to(x.dtype)
        parts.append(ops.prelu_alpha_grad(-dy * tangents[1], below, size, backend))
    return _sum(parts)


def _softmax(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    _, dim, backend = arguments
    # The Jacobian is symmetric.
    return None if tangents[0] is None else ops.softmax_backward(tangents[0], output, dim, backend)


def _softmax_backward(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    dy, y, dim, backend = arguments
    parts = []
    if tangents[0] is not None:
        parts.append(ops.softmax_backward(tangents[0], y, dim, backend))
    if tangents[1] is not None:
        moved = tangents[1]
        dots = (dy * y).sum(dim, keepdim=True), (dy * moved).sum(dim, keepdim=True)
        parts.append(moved * (dy - dots[0]) - y * dots[1])
    return _sum(parts)


def _channel_sum(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    return None if tangents[0] is None else ops.channel_sum(tangents[0], arguments[1])


def _batch_norm_stats(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    return None, None  # their part is in batch_norm_act's


def _conv2d_stats(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    y, mean, _ = output
    plain = (None, None, None, "identity", 0.0, None)
    as_conv = (*arguments[:7], *plain, *arguments[7:], None)
    dy = JVPS["conv2d"](ops, as_conv, (*tangents[:7], *([None] * 9)), y)
    if dy is None:
        return None, None, None
    moved, pixels = dy.to(mean.dtype), (0, 2, 3)
    return dy, moved.mean(pixels), 2 * ((y.to(mean.dtype) - mean.view(1, -1, 1, 1)) * moved).mean(pixels)


def _batch_norm_act(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    x, mean, var, weight, bias, training, eps, residual, act, param, alpha, backend = arguments
    dx, dmean, dvar, dweight, dbias, _, _, dresidual, _, _, dalpha, _ = tangents
    wide = torch.promote_types(x.dtype, torch.float32)  # as the kernels compute
    spread = (1, -1, 1, 1)
    factor = (var.to(wide) + eps).rsqrt().view(spread)
    normal = (x.to(wide) - mean.to(wide).view(spread)) * factor
    parts = []
    if training and dx is not None:
        moved = dx.to(wide)
        share = moved.mean((0, 2, 3), keepdim=True), (normal * moved).mean((0, 2, 3), keepdim=True)
        parts.append((moved - share[0] - normal * share[1]) * factor)
    elif not training:
        parts += [] if dx is None else [dx.to(wide) * factor]
        parts += [] if dmean is None else [(-dmean.to(wide).view(spread) * factor).expand_as(normal)]
        parts += [] if dvar is None else [normal * factor.square() * dvar.to(wide).view(spread) / -2]
    moved = _sum(parts)
    moved = moved if moved is None or weight is None else moved * weight.to(wide).view(spread)
    parts = [] if moved is None else [moved]
    parts += [] if dweight is None else [normal * dweight.to(wide).view(spread)]
    parts += [] if dbias is None else [dbias.to(wide).view(spread).expand_as(normal)]
    parts += [] if dresidual is None else [dresidual.to(wide)]
    moved = _sum(parts)
    if act != "identity":
        before = ops.batch_norm_act(
            x, mean, var, weight, bias, training, eps, residual, "identity", 0.0, None, backend
        ).to(wide)
        slopes = None if alpha is None else alpha.to(wide)
        parts = [] if moved is None else [ops.activation_backward(moved, before, act, param, slopes, 1, backend)]
        if dalpha is not None:
            parts.append(torch.where(before > 0, 0, before * _spread(dalpha.to(wide), before)))
        moved = _sum(parts)
    return None if moved is None else moved.to(x.dtype)


def _batch_norm_act_backward(ops: Operators, arguments: Arguments, tangents: Arguments, output: Any) -> Any:
    """Of the formula written out, in operations that torch knows."""
    places = [index for index in (0, 1, 2, 3, 4, 5, 8, 11) if arguments[index] is not None]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = list(arguments)
        for index, value in zip(places, values, strict=True):
            given[index] = value
        *tensors, training, eps, residual, act, param, alpha, backend = given
        return tuple(normalised(ops, [*tensors, residual, alpha], (training, eps, act, param, backend)))

    primals = tuple(arguments[index] for index in places)
    moved = tuple(
        torch.zeros_like(primal) if tangents[index] is None else tangents[index]
        for primal, index in zip(primals, places, strict=True)
    )
    results = torch.func.jvp(run, primals, moved)[1]
    return results if len(results) == 4 else (*results, torch.zeros_like(output[3]))


JVPS: dict[str, Jvp] = {
    "conv2d": _multilinear("conv2d", 0, 1, addend=2, plain=slice(7, 12)),
    "upsample_conv2d": _multilinear("upsample_conv2d", 0, 1, addend=2, plain=slice(8, 13)),
    "conv_transpose2d": _multilinear("conv_transpose2d", 0, 1, addend=2),
    "conv2d_input_grad": _multilinear("conv2d_input_grad", 0, 1),
    "conv2d_weight_grad": _multilinear("conv2d_weight_grad", 0, 1),
    "gemm": _multilinear("gemm", 0, 1, addend=2, plain=slice(5, 8)),
    "channel_sum": _channel_sum,
    "max_pool2d": _picked("max_pool2d"),
    "adaptive_max_pool2d": _picked("adaptive_max_pool2d"),
    **{
        name: _multilinear(name, 0)
        for name in (
            "max_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward",
            "adaptive_avg_pool2d", "adaptive_avg_pool2d_backward", "im2col", "col2im", "upsample_nearest2d",
            "upsample_nearest2d_backward",
        )
    },
    "activation": _activation,
    "activation_backward": _activation_backward,
    "prelu_alpha_grad": _prelu_alpha_grad,
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "batch_norm_stats": _batch_norm_stats,
    "conv2d_stats": _conv2d_stats,
    "batch_norm_act": _batch_norm_act,
    "batch_norm_act_backward": _batch_norm_act_backward,
    **blocks.JVPS,
}  # fmt: skip
