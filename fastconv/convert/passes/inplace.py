"""Makes in-place operations return new tensors, and their later readers read those: then values never change.

Where another name of the same memory is read after the write (a view, its base), that rewriting would be wrong. All
names of such memory are pinned instead: the operations stay in place and in order, and no pass moves a read of them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload

from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.capture import CaptureError, is_scalar
from fastconv.convert.ir import Context
from fastconv.nn.weights import activation_of, has_hooks

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_VIEWS = {
    "view", "view_as", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "movedim", "swapaxes",
    "squeeze", "unsqueeze", "expand", "expand_as", "chunk", "split", "tensor_split", "narrow", "select", "slice",
    "unbind", "diagonal", "unfold", "as_strided", "getitem", "contiguous", "detach", "to", "type_as", "float", "double",
    "half", "bfloat16",
}  # fmt: skip
_NOT_WRITES = {"requires_grad_", "retain_grad_"}


def remove_inplace(graph: fx.Graph, context: Context) -> None:
    names = _Names()
    order = {node: index for index, node in enumerate(graph.nodes)}
    hard: set[fx.Node] = set()
    for node in list(graph.nodes):
        written = _written(node, context)
        if written is None:
            names.add(node, context)
            continue
        others = names.of(written) - {written}
        if any(other.op == "get_attr" for other in (*others, written)):
            raise CaptureError(f"it writes to a parameter or buffer in place ({node.target})")
        later = [user for other in others for user in other.users if order.get(user, -1) > order[node]]
        if not _is_opaque(node, context) and any(name.op == "placeholder" for name in (*others, written)):
            context.writes_inputs = True
        if later or _is_opaque(node, context) or _name(node) == "setitem":
            names.join(node, written)
            hard.add(written)
        else:
            for user in list(written.users):
                if order.get(user, -1) > order[node]:
                    user.replace_input_with(written, node)
            _write_elsewhere(node, written, context)
            names.add_fresh(node)
    for written in hard:
        members = names.of(written)
        for member in members:
            member.meta["pinned"] = True
    _copy_pinned_inputs(graph)


class _Names:
    """Which nodes are names of the same memory, as far as their operations say."""

    def __init__(self) -> None:
        self._sets: dict[fx.Node, set[fx.Node]] = {}

    def of(self, node: fx.Node) -> set[fx.Node]:
        return self._sets.setdefault(node, {node})

    def add_fresh(self, node: fx.Node) -> None:
        self._sets[node] = {node}

    def join(self, node: fx.Node, base: fx.Node) -> None:
        merged = self.of(base) | self.of(node)
        for member in merged:
            self._sets[member] = merged

    def add(self, node: fx.Node, context: Context) -> None:
        name = _name(node)
        if node.op == "get_attr":
            same = [other for other in self._sets if other.op == "get_attr" and other.target == node.target]
            self.add_fresh(node)
            for other in same[:1]:
                self.join(node, other)
        elif name in _VIEWS or _is_opaque(node, context):
            self.add_fresh(node)
            for base in node.all_input_nodes:
                if not is_scalar(base):
                    self.join(node, base)
        else:
            self.add_fresh(node)


def _is_opaque(node: fx.Node, context: Context) -> bool:
    """A module whose code is not known here: it may return its input, or write to it."""
    if node.op != "call_module":
        return False
    return not type(context.module(node)).__module__.startswith(("torch.nn.", "fastconv.nn."))


def _written(node: fx.Node, context: Context) -> fx.Node | None:
    """The tensor that a node may write to."""
    first: Any = node.args[0] if node.args else node.kwargs.get("input")
    if "out" in node.kwargs and isinstance(node.kwargs["out"], fx.Node):
        raise CaptureError(f"{node.target} writes to an out= tensor")
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        module = context.module(node)
        if getattr(module, "inplace", False) is True:
            return first
        # An opaque module is taken to write only where that could be seen.
        return first if _is_opaque(node, context) and len(first.users) > 1 else None
    if node.op == "call_method":
        name = str(node.target)
        if name == "__setitem__":  # of a tensor that the forward itself made; of a recorded one it is setitem below
            return first
        return first if name.endswith("_") and not name.endswith("__") and name not in _NOT_WRITES else None
    if node.op != "call_function":
        return None
    if isinstance(node.target, OpOverload):
        schema = zip(node.target._schema.arguments, node.args, strict=False)
        return next((value for argument, value in schema if argument.is_write), None)  # type: ignore[return-value]
    operation = operation_of(node)
    if operation is not None and arguments_of(node, operation).get("inplace") is True:
        return first
    name = getattr(node.target, "__name__", "")
    if node.kwargs.get("inplace") is True or node.target in _OPERATORS or _outside(node.target) is not None:
        return first
    return first if name == "setitem" else None  # which returns nothing that later readers could read instead


def _name(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return node.target._opname
    return getattr(node.target, "__name__", str(node.target))


def _outside(function: Any) -> Any:
    """torch.relu for torch.relu_, F.relu_ or aten's; None for a function that is not of that form."""
    if isinstance(function, OpOverload):
        packet = getattr(torch.ops.aten, function._opname[:-1], None) if function._opname.endswith("_") else None
        return getattr(packet, function._overloadname, None)
    name = getattr(function, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return None
    return getattr(torch, name[:-1], None) or getattr(F, name[:-1], None)


def _write_elsewhere(node: fx.Node, written: fx.Node, context: Context) -> None:
    operation = operation_of(node)
    if node.op == "call_module":
        module = context.module(node)
        if activation_of(module) is not None and not has_hooks(module):
            return  # becomes one of fastconv's activations, which do not write
    if node.op == "call_method" and hasattr(torch.Tensor, str(node.target)[:-1]):
        node.target = str(node.target)[:-1]
    elif node.op == "call_function" and node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif isinstance(node.target, OpOverload) and (outside := _outside(node.target)) is not None:
        node.target = outside
    elif node.op == "call_function" and operation is not None:
        arguments = arguments_of(node, operation)
        node.args, node.kwargs = (written,), {k: v for k, v in arguments.items() if k not in ("input", "inplace")}
    elif node.op == "call_function" and (outside := _outside(node.target)) is not None:
        node.target = outside
    else:
        # No form that returns a new tensor: let it write to a copy.
        with node.graph.inserting_before(node):
            copied = node.graph.call_method("clone", (written,))
        node.replace_input_with(written, copied)


def _copy_pinned_inputs(graph: fx.Graph) -> None:
    """The caller's tensors are not written to, whatever the model does."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder" and node.meta.get("pinned")]
    for node in placeholders:
        last = [other for other in graph.nodes if other.op == "placeholder"][-1]
        with graph.inserting_after(last):
            copied = graph.call_method("clone", (node,))
        copied.meta["pinned"] = True
        node.replace_all_uses_with(copied, delete_user_cb=lambda user, own=copied: user is not own)
