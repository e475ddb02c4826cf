"""What works on each channel by itself, by name and kind, and what becomes of one that is one number everywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import fx, nn

from fastconv import nn as fnn
from fastconv.convert.calls import operation_of
from fastconv.convert.channels import Numbers


def same(given: Numbers) -> Numbers:
    return given


def zeros_only(given: Numbers) -> Numbers:
    """For what puts zeros beside the values."""
    return np.where(given == 0, 0.0, np.nan)


def unknown(given: Numbers) -> Numbers:
    return np.full_like(given, np.nan)


def _product(first: Numbers, second: Numbers) -> Numbers:
    return np.where((first == 0) | (second == 0), 0.0, first * second)


ARITHMETIC: dict[str, Callable[..., Numbers]] = {
    "add": np.add, "sub": np.subtract, "mul": _product, "truediv": np.divide, "div": np.divide,
}  # fmt: skip


def name_of(node: fx.Node) -> str:
    """The operation's name, whether function, method or operator."""
    known = operation_of(node)
    if known is not None:
        return known
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._opname
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


SPATIAL_MODULES: tuple[type[nn.Module], ...] = (
    nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.Mish, nn.Softplus, nn.SELU, nn.CELU, nn.GELU, nn.Hardtanh, nn.Softsign, nn.LogSigmoid, nn.Hardshrink,
)  # fmt: skip
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, fnn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
POINTWISE = {
    "gelu", "mish", "softplus", "selu", "celu", "hardtanh", "clamp", "clamp_min", "abs", "neg", "exp", "sqrt", "square",
    "relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "leaky_relu", "elu", "float", "contiguous",
}  # fmt: skip
RANK_KEEPING = POINTWISE | {
    "add", "sub", "mul", "div", "truediv", "pad", "interpolate", "cat", "concat", "chunk", "split", "to", "clone",
    "permute", "transpose", "batch_norm", "raw_batch_norm",
}  # fmt: skip
