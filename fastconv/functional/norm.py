"""BatchNorm with what usually follows it, for training: batch statistics, normalisation, residual, activation."""

from typing import Any

import torch
from torch import Tensor

from fastconv import ops

from . import checks, dispatch
from .arguments import ActParam, split_param


def batch_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    act: str = "identity",
    act_param: ActParam = None,
) -> Tensor:
    """Batch normalisation, a residual and an activation in one pass over x.

    y = act((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] + residual)

    Equivalent to ``act(torch.nn.functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum,
    eps) + residual)``: with `training`, mean and var are those of x over its batch and pixels, and the running ones,
    where given, move towards them by `momentum` (the variance with divisor N*H*W - 1); else they are the running ones.

    Args:
        x: (N, C, ...), at least two dimensions; float32, float64, float16 or bfloat16; contiguous,
            channels_last or strided.
        running_mean, running_var: (C,), written in place with `training`; both may be None then.
        weight, bias: (C,), of x's dtype or float32; None for 1 and 0.
        momentum: the share of the new statistics in the running ones.
        residual: of x's shape and dtype.
        act, act_param: the activation and its parameter, a float or PReLU's tensor.

    Returns:
        y, in x's shape and memory format.

    Raises:
        ValueError: one value for each channel to take statistics of, an unknown `act`, or a residual of another shape.
        RuntimeError: torch's errors, in torch's words.

    Numerics: statistics and gradients accumulate in float32 (float64 for float64); variances are sums of squared
    deviations, merged pairwise, so that a large mean costs no digits. Deterministic. Gradients are computed anew from
    x: of the intermediate results none is kept.
    """
    return normalised(
        None, x, running_mean, running_var, weight, bias, training, momentum, eps, residual, act, act_param
    )


def normalised(
    statistics: tuple[Tensor, Tensor] | None,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    act: str,
    act_param: ActParam,
) -> Tensor:
    """batch_norm_act; `statistics`, x's own mean and variance, where who made x has them already (conv_norm.py)."""
    try:
        mixed = running_var is not None and running_var.dtype is not x.dtype
        if dispatch.checks_first() or training or mixed or eps < 0:
            _check(x, running_mean, running_var, weight, bias, training, momentum, eps, residual, act, act_param)
        image = image_of(x)
        number, alpha = split_param(act, act_param)
        backend = dispatch.forced_backend(x)
        operators = dispatch.operators_of(backend)
        if training:
            if statistics is None:
                run = dispatch.recorded if ops.transforming() else dispatch.call
                statistics = run(operators.batch_norm_stats, image, backend)
            mean, var = statistics
        else:
            mean, var = running_mean, running_var
        added = None if residual is None else image_of(residual)
        operator = operators.batch_norm_act
        arguments = (image, mean, var, weight, bias, training, eps, added, act, number, alpha, backend)
        run = dispatch.recorded if dispatch.records(image, weight, bias, added, alpha) else dispatch.call
        y = run(operator, *arguments)
        if training and x.numel():  # last: a call that fails has moved nothing
            move_statistics(running_mean, running_var, mean, var, image.numel() // image.shape[1], momentum)
    except Exception as error:
        rest = (running_mean, running_var, weight, bias, training, momentum, eps, residual, act, act_param)
        dispatch.refused(error, "batch_norm_act", _check, x, *rest)
    if image.shape[2] == 1 and image.shape[3] == 1:
        return y.reshape(x.shape[:2]).reshape(x.shape)  # torch's strides for images of one pixel read as NCHW
    return y if y.shape == x.shape else y.reshape(x.shape)


def image_of(x: Tensor) -> Tensor:
    """x with four dimensions."""
    if x.dim() == 4:
        return x
    if x.dim() < 2:
        raise ValueError("no channels")  # the checks find better words
    return x.reshape(*x.shape, *[1] * (4 - x.dim())) if x.dim() < 4 else x.reshape(*x.shape[:2], x.shape[2], -1)


def move_statistics(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    try:
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    except RuntimeError as error:
        if not ops.transforming():
            raise
        raise RuntimeError(
            "batch_norm: expected running_mean and running_var to be mapped by vmap as the input is, but got one of "
            "each for all samples, which cannot move towards every sample's statistics (pass stacked ones through "
            "torch.func.functional_call, or use track_running_stats=False)"
        ) from error


def _check(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: Any,
    eps: Any,
    residual: Any,
    act: Any,
    act_param: Any,
) -> None:
    op = "batch_norm_act"
    checks.tensors("batch_norm", input=x)  # as torch calls it
    for name, number in (("momentum", momentum), ("eps", eps)):
        checks.require(
            hasattr(number, "__float__") and not isinstance(number, Tensor),
            lambda: f"{op}(): argument '{name}' must be float, not {type(number).__name__}",
            TypeError,
        )
    if training and eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    checks.require(
        x.dim() >= 2, lambda: f"{op}: expected input to have at least 2 dimensions, but got {x.dim()}", ValueError
    )
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    channels = x.shape[1]
    for name, vector in {
        "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias,
    }.items():  # fmt: skip
        if vector is None:
            checks.require(
                training or not name.startswith("running"), lambda: f"{name} must be defined in evaluation mode"
            )
            continue
        checks.require(
            isinstance(vector, Tensor),
            lambda: f"{op}(): argument '{name}' must be Tensor, not {type(vector).__name__}",
            TypeError,
        )
        checks.require(
            vector.numel() == channels,
            lambda: f"{name} should contain {channels} elements not {vector.numel()}",
        )
        checks.require(
            vector.dim() == 1,
            lambda: f"{op}: expected {name} to have shape [{channels}], but got {list(vector.shape)}",
            ValueError,
        )
        checks.floating(op, name, vector)
    checks.float_dtype(op, x)
    checks.require(
        not training or (running_mean is None) == (running_var is None),
        lambda: "running_mean and running_var must either both be None or neither be None",
        ValueError,
    )
    others = [t for t in (weight, bias, running_mean, running_var) if t is not None and t.dtype is not x.dtype]
    for t in others:
        checks.require(
            t.dtype is torch.float32, lambda: "mixed dtype (CPU): expect parameter to have scalar type of Float"
        )
    checks.require(
        not others or x.dtype in (torch.float16, torch.bfloat16),
        lambda: "mixed dtype (CPU): all inputs must share same datatype.",
    )
    fused = {"residual": residual, "act": act, "act_param": act_param}
    checks.epilogue(op, list(x.shape), x, 1, channels, fused)
    checks.one_device(op, x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
