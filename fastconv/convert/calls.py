"""Which functions, methods and operators of torch mean the same thing, and what their arguments are called."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

aten = torch.ops.aten

# Operation -> (parameter names in order, functions, methods). The first parameter is the input.
_TABLE: dict[str, tuple[str, tuple[Any, ...], tuple[str, ...]]] = {
    "conv2d": (
        "input weight bias stride padding dilation groups",
        (torch.conv2d, F.conv2d, aten.conv2d.default, aten.conv2d.padding),
        (),
    ),
    "conv_transpose2d": (
        "input weight bias stride padding output_padding groups dilation",
        (torch.conv_transpose2d, F.conv_transpose2d, aten.conv_transpose2d.input),
        (),
    ),
    "linear": ("input weight bias", (F.linear, aten.linear.default), ()),
    "batch_norm": ("input running_mean running_var weight bias training momentum eps", (F.batch_norm,), ()),
    "raw_batch_norm": (
        "input weight bias running_mean running_var training momentum eps cudnn_enabled",
        (torch.batch_norm, aten.batch_norm.default),
        (),
    ),
    "max_pool2d": (
        "input kernel_size stride padding dilation ceil_mode return_indices",
        (F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d, aten.max_pool2d.default),
        (),
    ),
    "avg_pool2d": (
        "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
        (F.avg_pool2d, aten.avg_pool2d.default),
        (),
    ),
    "adaptive_avg_pool2d": ("input output_size", (F.adaptive_avg_pool2d, aten.adaptive_avg_pool2d.default), ()),
    "adaptive_max_pool2d": (
        "input output_size return_indices",
        (F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices),
        (),
    ),
    "pad": ("input pad mode value", (F.pad, torch._C._nn.pad, aten.pad.default), ()),
    "interpolate": (
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        (F.interpolate,),
        (),
    ),
    "upsample": ("input size scale_factor mode align_corners", (F.upsample,), ()),
    "upsample_nearest": ("input size scale_factor", (F.upsample_nearest, aten.upsample_nearest2d.vec), ()),
    "add": ("input other", (operator.add, torch.add, aten.add.Tensor), ("add",)),
    "mul": ("input other", (operator.mul, torch.mul, aten.mul.Tensor), ("mul",)),
    "dropout": (
        "input p training inplace",
        (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout),
        (),
    ),
    "raw_dropout": ("input p train", (torch.dropout, aten.dropout.default), ()),
    "relu": ("input inplace", (F.relu, torch.relu, aten.relu.default), ("relu",)),
    "relu6": ("input inplace", (F.relu6, aten.relu6.default), ()),
    "leaky_relu": ("input negative_slope inplace", (F.leaky_relu, aten.leaky_relu.default), ()),
    "prelu": ("input weight", (F.prelu, torch.prelu, aten.prelu.default), ("prelu",)),
    "sigmoid": ("input", (F.sigmoid, torch.sigmoid, torch.special.expit, aten.sigmoid.default), ("sigmoid",)),
    "softmax": ("input dim dtype", (torch.softmax, aten.softmax.int), ("softmax",)),
    "named_softmax": ("input dim _stacklevel dtype", (F.softmax,), ()),
    "tanh": ("input", (F.tanh, torch.tanh, aten.tanh.default), ("tanh",)),
    "silu": ("input inplace", (F.silu, aten.silu.default), ()),
    "hardswish": ("input inplace", (F.hardswish, aten.hardswish.default), ()),
    "hardsigmoid": ("input inplace", (F.hardsigmoid, aten.hardsigmoid.default), ()),
    "gelu": ("input approximate", (F.gelu, aten.gelu.default), ()),
    "elu": ("input alpha inplace", (F.elu, aten.elu.default), ()),
    "hardtanh": ("input min_val max_val inplace", (F.hardtanh, aten.hardtanh.default), ()),
    "clamp": ("input min max", (torch.clamp, torch.clip, aten.clamp.default), ("clamp", "clip")),
    "clamp_min": ("input min", (torch.clamp_min, aten.clamp_min.default), ("clamp_min",)),
}

_PARAMETERS = {name: names.split() for name, (names, _, _) in _TABLE.items()}
_FUNCTIONS = {function: name for name, (_, functions, _) in _TABLE.items() for function in functions}
_METHODS = {method: name for name, (_, _, methods) in _TABLE.items() for method in methods}


def operation_of(node: fx.Node) -> str | None:
    """The operation that a function or method call is, by the names of the table above."""
    if node.op == "call_function":
        try:
            return _FUNCTIONS.get(node.target)
        except TypeError:  # an unhashable callable
            return None
    return _METHODS.get(str(node.target)) if node.op == "call_method" else None


def arguments_of(node: fx.Node, operation: str) -> dict[str, Any]:
    """The call's arguments by name; those not given are absent."""
    given = {**dict(zip(_PARAMETERS[operation], node.args, strict=False)), **node.kwargs}
    if getattr(node.target, "__name__", "").endswith("_with_indices"):
        given["return_indices"] = True  # whatever its argument of that name says
    return given


def is_constant(value: Any) -> bool:
    """Whether an argument is known now: no node of the graph anywhere in it."""
    found: set[fx.Node] = set()

    def note(node: fx.Node) -> fx.Node:
        found.add(node)
        return node

    fx.node.map_arg(value, note)
    return not found


def pair(value: Any) -> tuple[int, int]:
    """torch's int-or-pair arguments as a pair."""
    if isinstance(value, int):
        return (value, value)
    first, second = tuple(value) * (2 if len(value) == 1 else 1)
    return (int(first), int(second))
