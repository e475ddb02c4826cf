"""BatchNorm + addition + activation as one call, in graphs that train."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fastconv import functional
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.functional.arguments import DEFAULT_PARAM

_ACTIVATIONS = {
    getattr(functional, name): name
    for name in ("relu", "relu6", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "hardswish", "gelu", "elu")
}


def fuse(graph: fx.Graph) -> None:
    """Merges the addition and the activation that alone read a BatchNorm into its call."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    writes = sorted(order[node] for node in graph.nodes if _writes(node))
    for node in list(graph.nodes):
        if node.target is not functional.batch_norm_act:
            continue
        last, residual, act, param = node, None, "identity", None
        added = _only_reader(last)
        if added is not None and (other := _addend(added, last)) is not None:
            last, residual = added, other
        active = _only_reader(last)
        if active is not None and active.target in _ACTIVATIONS and active.args[0] is last:
            act, param = _ACTIVATIONS[active.target], _parameter(active)
            last = active
        between = range(order[node] + 1, order[last])
        if last is node or any(index in between and index != order.get(added) for index in writes):
            continue  # nothing follows, or the operands may be overwritten before the end of the chain
        if any(order[user] in between for statistic in _statistics(node) for user in statistic.users if user in order):
            continue  # the call updates the running statistics, and would do so after they are read
        with graph.inserting_before(last):
            kwargs = {**node.kwargs, "residual": residual, "act": act, "act_param": param}
            made = graph.call_function(functional.batch_norm_act, node.args, kwargs)
        made.meta = dict(last.meta)
        order[made] = order[last]
        last.replace_all_uses_with(made)
        for old in (last, added, node):
            if old is not None and not old.users and old in order and old.graph is graph:
                graph.erase_node(old)
                del order[old]


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _addend(node: fx.Node, normal: fx.Node) -> Any:
    """The other operand of an addition of two tensors of the same shape and type; None for anything else."""
    if operation_of(node) != "add" and getattr(node.target, "__name__", "") != "iadd":
        return None
    arguments = arguments_of(node, "add")
    operands = [arguments.pop("input", None), arguments.pop("other", None)]
    if arguments or normal not in operands or operands[0] is operands[1]:
        return None
    other = operands[1] if operands[0] is normal else operands[0]
    if getattr(node.target, "__name__", "") == "iadd" and other is operands[0]:
        return None  # it writes to the other one
    a, b = (value.meta.get("example_value") if isinstance(value, fx.Node) else None for value in (other, normal))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.dim() == b.dim()):
        return None
    # Open extents are compared without a promise to Dynamo that they are equal.
    return other if all(map(_surely_equal, a.shape, b.shape)) else None


def _surely_equal(a: Any, b: Any) -> bool:
    return statically_known_true(a == b)


def _parameter(active: fx.Node) -> Any:
    name = _ACTIVATIONS[active.target]
    if name == "prelu":
        return active.kwargs["weight"]
    key = {"leaky_relu": "negative_slope", "elu": "alpha"}.get(name)
    return None if key is None else active.kwargs.get(key, DEFAULT_PARAM[name])


def _statistics(node: fx.Node) -> list[fx.Node]:
    """The running statistics of a BatchNorm's call."""
    given = (*node.args[1:3], node.kwargs.get("running_mean"), node.kwargs.get("running_var"))
    return [value for value in given if isinstance(value, fx.Node)]


# operator's functions for `x += y` and its like; all of them write to a tensor on the left.
_AUGMENTED = {name for name in vars(operator) if name.startswith("i") and f"__{name}__" in vars(operator)} | {"setitem"}


def _writes(node: fx.Node) -> bool:
    """Whether a node may write to a tensor that a chain reads; a count of batches is none."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_module" or name in _AUGMENTED or "out" in node.kwargs:
        return True
    # `inplace`, by name or by position; another argument that is True only keeps a chain apart for nothing.
    if any(value is True for value in (*node.args, node.kwargs.get("inplace"))):
        return node.target is not functional.batch_norm_act
    if not name.endswith("_") or name.endswith("__"):
        return False
    written = node.args[0] if node.args else None
    value = written.meta.get("example_value") if isinstance(written, fx.Node) else None
    return not (isinstance(value, Tensor) and not value.is_floating_point() and value.dim() == 0)
