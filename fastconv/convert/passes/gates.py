"""Activations that a model spells out: x * sigmoid(x), and the hard ones made of relu6(x + 3) / 6."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fastconv.convert import ir
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.ir import Context
from fastconv.nn.weights import Activation

# x * gate(x) -> the activation that it is.
_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
_DIVISIONS = {operator.truediv, torch.div, "div", torch.ops.aten.div.Tensor, torch.ops.aten.div.Scalar}


def recognise_silu(graph: fx.Graph, context: Context) -> None:
    """x * sigmoid(x), as many models write it, and x * hardsigmoid(x)."""
    for node in list(graph.nodes):
        for x, gate in _factors(node):
            spec = ir.spec_of(gate, ir.Act)
            if spec is None or spec.act.name not in _GATED or ir.inputs_of(gate) != (x,) or not ir.may_merge(gate):
                continue
            act = Activation(_GATED[spec.act.name])
            ir.put(node, replace(spec, labels=(*spec.labels, ir.label_of(node)), act=act), x)
            ir.drop(gate)
            break


def recognise_hard_gates(graph: fx.Graph, context: Context) -> None:
    """relu6(x + 3) / 6 is hardsigmoid(x), x * relu6(x + 3) / 6 is hardswish(x)."""
    for node in list(graph.nodes):
        bounded = _a_sixth_of(node)
        if bounded is None or not ir.may_merge(bounded):
            continue
        name, candidates = "hardsigmoid", [(None, bounded)]
        if ir.spec_of(bounded, ir.Act) is None:
            name, candidates = "hardswish", _factors(bounded)
        for x, gate in candidates:
            spec, source = ir.spec_of(gate, ir.Act), _three_less(gate)
            if spec is None or source is None or x not in (None, source) or not ir.may_merge(gate):
                continue
            product = [] if gate is bounded else [ir.label_of(bounded)]
            labels = (*spec.labels, *product, ir.label_of(node))
            unused = dict.fromkeys((bounded, gate, ir.inputs_of(gate)[0]))
            ir.put(node, replace(spec, labels=labels, act=Activation(name)), source)
            for part in unused:
                ir.drop(part)
            break


def _factors(node: Any) -> list[tuple[Any, Any]]:
    """Both ways to read a product of two values."""
    if not isinstance(node, fx.Node) or operation_of(node) != "mul":
        return []
    arguments = arguments_of(node, "mul")
    pair = (arguments.get("input"), arguments.get("other"))
    return [pair, pair[::-1]] if all(isinstance(value, fx.Node) for value in pair) else []


def _a_sixth_of(node: fx.Node) -> fx.Node | None:
    """x, where the node is x / 6 or x * (1 / 6)."""
    if node.meta.get("pinned") or node.kwargs or len(node.args) != 2:
        return None
    x, number = node.args
    if isinstance(number, fx.Node):
        x, number = number, x
        if node.target in _DIVISIONS:
            return None
    if not isinstance(x, fx.Node) or not isinstance(number, int | float):
        return None
    if node.target in _DIVISIONS:
        return x if number == 6 else None
    return x if operation_of(node) == "mul" and abs(number - 1 / 6) < 1e-6 else None


def _three_less(gate: Any) -> fx.Node | None:
    """x, where the value is relu6(x + 3)."""
    spec = ir.spec_of(gate, ir.Act)
    if spec is None or spec.act.name != "relu6":
        return None
    added = ir.inputs_of(gate)[0]
    if operation_of(added) != "add" or not ir.may_merge(added):
        return None
    arguments = arguments_of(added, "add")
    pair = (arguments.get("input"), arguments.get("other"))
    if arguments.get("alpha", 1) != 1 or 3 not in [value for value in pair if not isinstance(value, fx.Node)]:
        return None
    x = next((value for value in pair if isinstance(value, fx.Node)), None)
    return x if x is not None and not x.meta.get("pinned") else None
