"""Keeps a network in channels_last from its first convolution on, and hands others the layout they would have had."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._ops import OpOverload

from fastconv.convert import ir, steps
from fastconv.convert.calls import operation_of
from fastconv.convert.capture import is_scalar
from fastconv.convert.ir import Context

# What torch computes with the same values and no detour whatever the strides of its inputs.
_ANY_LAYOUT_FUNCTIONS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.getitem,
    torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.exp, torch.sqrt, torch.abs, torch.square,
    torch.maximum, torch.minimum, torch.clamp, torch.cat, torch.concat, torch.chunk, torch.split, torch.softmax,
    torch.mean, torch.amax, torch.where, torch.sigmoid, torch.tanh, torch.relu,
    F.pad, F.interpolate, F.batch_norm, torch.batch_norm, F.softmax, F.mish, F.softplus, F.gelu, F.selu,
    F.hardtanh, F.normalize, F.group_norm,
}  # fmt: skip
_ANY_LAYOUT_METHODS = {
    "add", "sub", "mul", "div", "neg", "pow", "exp", "sqrt", "rsqrt", "abs", "square", "log", "log1p", "erf", "sin",
    "cos", "clamp", "maximum", "minimum", "sigmoid", "tanh", "relu", "softmax", "mean", "amax", "chunk", "split",
}  # fmt: skip
_ANY_LAYOUT_MODULES = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.Upsample,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.Softmax,
    nn.Mish,
    nn.Softplus,
    nn.SELU,
    nn.GELU,
    nn.Hardtanh,
)
_JOINS = {torch.cat, torch.concat, torch.ops.aten.cat.default}


class LayoutPlan:
    """Decides for every value whether its layout is the original's or fastconv's own, and inserts the way back.

    Which layout the original would have depends on the layout of the inputs at each call: small nodes carry that flag
    along the graph, and those that nothing asks for are removed again.
    """

    def __init__(self, graph: fx.Graph, context: Context, new_step: Callable[[Any], str]) -> None:
        self._graph, self._context, self._new_step = graph, context, new_step
        self._own: set[fx.Node] = set()  # values in fastconv's layout
        self._origins: dict[fx.Node, tuple[list[fx.Node], list[steps.Prepared]]] = {}
        self._restored: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        for node in list(self._graph.nodes):
            own_inputs = [value for value in node.all_input_nodes if value in self._own]
            if node.op == "output" or (own_inputs and not self._takes_any_layout(node)):
                for value in own_inputs:
                    node.replace_input_with(value, self._restore(value, node))
            elif is_scalar(node) or self._makes_contiguous(node):
                pass
            elif own_inputs or self._makes_channels_last(node):
                self._own.add(node)
            if node in self._own and node.meta.get("pinned"):
                # Written to in place later, under this or another name: the one tensor that all of them mean.
                readers = list(node.users)
                restored = self._restore(node, node.next)
                self._own.discard(node)
                for reader in readers:
                    reader.replace_input_with(node, restored)

    def _makes_channels_last(self, node: fx.Node) -> bool:
        return ir.spec_of(node, ir.Conv) is not None

    def _makes_contiguous(self, node: fx.Node) -> bool:
        """Whether the result is contiguous whatever is read, torch's as ours."""
        if ir.spec_of(node, ir.Softmax) is not None or node.target in ("softmax", torch.softmax, F.softmax):
            return True
        return node.op == "call_module" and isinstance(self._context.module(node), nn.Softmax)

    def _takes_any_layout(self, node: fx.Node) -> bool:
        if isinstance(node.meta.get("spec"), ir.SERVED) and node.target is ir.operation:
            # A transposed convolution chooses by its input, and linear by its last dimension: both know strides.
            return True
        if is_scalar(node):
            return True
        if node.meta.get("pinned"):
            return False
        if node.op == "call_module":
            module = self._context.module(node)
            return isinstance(module, _ANY_LAYOUT_MODULES) and type(module).__module__.startswith("torch.nn.")
        if node.op == "call_method":
            return node.target in _ANY_LAYOUT_METHODS
        if isinstance(node.target, OpOverload):
            return node.target._opname in _ANY_LAYOUT_METHODS or node.target in _JOINS
        return node.op == "call_function" and (node.target in _ANY_LAYOUT_FUNCTIONS or operation_of(node) == "pad")

    def _restore(self, value: fx.Node, reader: fx.Node) -> fx.Node:
        if value not in self._restored:
            whole = _viewed(value)
            if whole is not None and whole in self._own:
                # A view's strides are those of what it is a view of.
                base = self._restore(whole, reader)
                with self._graph.inserting_before(reader):
                    again = self._graph.node_copy(value, lambda node: base if node is whole else node)
                self._restored[value] = again
            else:
                flag = self._flag(value, reader)
                with self._graph.inserting_before(reader):
                    self._restored[value] = self._graph.call_function(steps.restore, (value, flag))
        return self._restored[value]

    def _flag(self, value: fx.Node, reader: fx.Node) -> fx.Node:
        """A node with the answer to: is this value channels_last in the original network?"""
        flags, weights = self._decided_by(value, reader)
        name = self._new_step(steps.FormatStep(tuple(dict.fromkeys(weights))))
        with self._graph.inserting_before(reader):
            return self._graph.call_module(name, tuple(dict.fromkeys(flags)))

    def _decided_by(self, value: fx.Node, reader: fx.Node) -> tuple[list[fx.Node], list[steps.Prepared]]:
        """The flags and weights any one of which makes the value channels_last in the original network."""
        known = self._origins.get(value)
        if known is not None:
            return known
        flags: list[fx.Node] = []
        weights: list[steps.Prepared] = []
        if value not in self._own:
            flags.append(self._after(value, lambda: self._graph.call_function(steps.is_channels_last, (value,))))
        elif value.target in _JOINS:
            # A concatenation is channels_last where all of its parts are.
            following = value.next
            parts = tuple(self._flag(part, following) for part in value.all_input_nodes if not is_scalar(part))
            with self._graph.inserting_before(following):
                flags.append(self._graph.call_function(steps.all_of, parts))
        elif (spec := ir.spec_of(value, ir.Conv)) and spec.norms and _is_one_pixel(ir.inputs_of(value)[0]):
            pass  # torch's BatchNorm gives such images strides that read as NCHW
        else:
            inputs = value.all_input_nodes
            if isinstance(value.meta.get("spec"), ir.Conv):
                weights.append(value.meta["prepared"])
                inputs = [ir.inputs_of(value)[0]]
            for part in inputs:
                if not is_scalar(part):
                    more_flags, more_weights = self._decided_by(part, reader)
                    flags.extend(more_flags)
                    weights.extend(more_weights)
        self._origins[value] = (list(dict.fromkeys(flags)), list(dict.fromkeys(weights)))
        return self._origins[value]

    def _after(self, value: fx.Node, make: Callable[[], fx.Node]) -> fx.Node:
        anchor = value
        while anchor.op == "placeholder" and anchor.next.op == "placeholder":
            anchor = anchor.next
        with self._graph.inserting_after(anchor):
            return make()


def _viewed(value: fx.Node) -> fx.Node | None:
    """What a slice or a part is taken from; None for other values."""
    whole = value.args[0] if value.args else None
    if not isinstance(whole, fx.Node):
        return None
    if value.target is operator.getitem:
        # With a number it may take one of several results; those of chunk and split are views.
        return whole if not isinstance(value.args[1], int) or _is_split(whole) else None
    return whole if _is_split(value) else None


def _is_split(value: fx.Node) -> bool:
    return value.target in ("chunk", "split", torch.chunk, torch.split)


def _is_one_pixel(value: fx.Node) -> bool:
    """Whether images are known to be pooled to a pixel."""
    spec = value.meta.get("spec")
    if isinstance(spec, ir.Pool) and spec.function.startswith("adaptive"):
        return spec.arguments["output_size"] in (1, (1, 1), [1, 1])
    if value.target in ("mean", torch.mean):
        dims = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim")
        return value.kwargs.get("keepdim") is True and dims in ((2, 3), [2, 3], (-2, -1), [-2, -1], (-1, -2), [-1, -2])
    inputs = value.all_input_nodes
    return isinstance(spec, ir.Act | ir.Conv) and len(inputs) == 1 and _is_one_pixel(inputs[0])
