"""fastconv's operators in a captured graph, written as the functions of torch that they stand for.

A network on fastconv's layers reaches the backend as calls of torch.ops.fastconv.*; the passes of fastconv.convert
fuse what torch's networks are made of.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fastconv.ops import native

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "silu": F.silu, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "gelu": F.gelu, "elu": F.elu,
}  # fmt: skip


def unfuse(graph: fx.Graph) -> None:
    """Rewrites every call that the passes can serve at least as well; the others stay."""
    for node in list(graph.nodes):
        write = _WRITERS.get(node.target) if node.op == "call_function" else None
        if write is None:
            continue
        with graph.inserting_before(node):
            made = write(graph, node)
        if made is None:
            continue
        made.meta = {**node.meta, **made.meta}
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _act(graph: fx.Graph, y: fx.Node, act: str, param: Any, alpha: Any, inplace: bool = False) -> fx.Node:
    if act == "identity":
        return y
    if act == "prelu":
        return graph.call_function(F.prelu, (y, alpha))
    arguments = (y, param) if act in ("leaky_relu", "elu") else (y,)
    return graph.call_function(_FUNCTIONS[act], arguments, {"inplace": True} if inplace else {})


def _finish(graph: fx.Graph, node: fx.Node, y: fx.Node, residual: Any, act: str, param: Any, alpha: Any) -> fx.Node:
    y.meta = dict(node.meta)
    if residual is not None:
        y = graph.call_function(torch.add, (y, residual))
        y.meta = dict(node.meta)
    return _act(graph, y, act, param, alpha)


def _conv2d(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x, weight, bias, stride, padding, dilation, groups, scale, shift, *rest = node.args
    return _convolve(graph, node, x, (weight, bias, stride, padding, dilation, groups), scale, shift, rest)


def _upsample_conv2d(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x, weight, bias, factor, stride, padding, dilation, groups, scale, shift, *rest = node.args
    if not _by_default(rest[4:]) or scale is not None or shift is not None:
        return None
    large = graph.call_function(F.interpolate, (x,), {"scale_factor": tuple(map(float, factor))})  # type: ignore[arg-type]
    return _convolve(graph, node, large, (weight, bias, stride, padding, dilation, groups), scale, shift, rest)


def _by_default(choice: Any) -> bool:
    """Whether algorithm, backend and packed weight were left to the package."""
    return tuple(choice) in (("", "", None), ("", ""))


def _convolve(
    graph: fx.Graph, node: fx.Node, x: Any, geometry: Any, scale: Any, shift: Any, rest: list[Any]
) -> fx.Node | None:
    residual, act, param, alpha, *choice = rest
    if scale is not None or shift is not None or not _by_default(choice):
        return None
    weight, bias, stride, (top, bottom, left, right), dilation, groups = geometry
    if (top, left) != (bottom, right):
        x = graph.call_function(F.pad, (x, (left, right, top, bottom)))
        top = left = 0
    y = graph.call_function(F.conv2d, (x, weight, bias, tuple(stride), (top, left), tuple(dilation), groups))
    return _finish(graph, node, y, residual, act, param, alpha)


def _conv_transpose2d(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    *arguments, algo, backend, packed = node.args
    if not _by_default((algo, backend, packed)):
        return None
    return graph.call_function(F.conv_transpose2d, tuple(arguments))


def _gemm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    a, b, bias, transpose_a, transpose_b, residual, act, param, alpha, *choice = node.args
    value = a.meta.get("example_value") if isinstance(a, fx.Node) else None
    if transpose_a or not transpose_b or value is None or value.dim() != 2 or not _by_default(choice):
        return None
    y = graph.call_function(F.linear, (a, b, bias))
    return _finish(graph, node, y, residual, act, param, alpha)  # type: ignore[arg-type]


def _activation(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x, act, param, alpha, backend = node.args
    if backend or act == "identity":
        return None
    return _act(graph, x, act, param, alpha, inplace=node.target is native.activation_)  # type: ignore[arg-type]


def _max_pool(function: Callable[..., Any], count: int) -> Callable[[fx.Graph, fx.Node], fx.Node | None]:
    def write(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
        """Where nobody reads the indices: the function returns what the operator's first result was."""
        readers = list(node.users)
        if node.args[-1] or any(user.target is not operator.getitem or user.args[1] != 0 for user in readers):
            return None
        made = graph.call_function(function, node.args[:count])
        for reader in readers:
            made.meta = dict(reader.meta)
            reader.replace_all_uses_with(made)
            graph.erase_node(reader)
        return made

    return write


def _avg_pool2d(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    *arguments, divisor, backend = node.args
    return None if backend else graph.call_function(F.avg_pool2d, (*arguments, divisor or None))


def _adaptive_avg_pool2d(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    return None if node.args[2] else graph.call_function(F.adaptive_avg_pool2d, node.args[:2])


def _batch_norm_act(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    x, mean, var, weight, bias, training, eps, residual, act, param, alpha, backend = node.args
    # Alone, it is one kernel as it is.
    after_conv = isinstance(x, fx.Node) and x.target in (F.conv2d, F.conv_transpose2d) and len(x.users) == 1
    if training or backend or not after_conv:
        return None
    y = graph.call_function(F.batch_norm, (x, mean, var, weight, bias, False, 0.0, eps))
    return _finish(graph, node, y, residual, act, param, alpha)  # type: ignore[arg-type]


_WRITERS: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    native.conv2d: _conv2d,
    native.upsample_conv2d: _upsample_conv2d,
    native.conv_transpose2d: _conv_transpose2d,
    native.gemm: _gemm,
    native.activation: _activation,
    native.activation_: _activation,
    native.max_pool2d: _max_pool(F.max_pool2d, 6),
    native.adaptive_max_pool2d: _max_pool(F.adaptive_max_pool2d, 2),
    native.avg_pool2d: _avg_pool2d,
    native.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    native.batch_norm_act: _batch_norm_act,
}
