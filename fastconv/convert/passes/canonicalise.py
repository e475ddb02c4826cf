"""Says of every node which operation it is, however the model wrote it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from fastconv.convert import ir
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.ir import Context
from fastconv.convert.passes.functions import read_function
from fastconv.convert.passes.modules import read_module
from fastconv.nn.weights import Activation


def canonicalise(graph: fx.Graph, context: Context) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module":
            read_module(node, context)
        elif node.op in ("call_function", "call_method"):
            read_function(node, context)


def recognise_silu(graph: fx.Graph, context: Context) -> None:
    """x * sigmoid(x), as many models write it."""
    for node in list(graph.nodes):
        if operation_of(node) != "mul":
            continue
        arguments = arguments_of(node, "mul")
        first: Any = arguments.get("input")
        second: Any = arguments.get("other")
        for x, gate in ((first, second), (second, first)):
            spec = ir.spec_of(gate, ir.Act)
            if spec is None or spec.act.name != "sigmoid" or ir.inputs_of(gate) != (x,) or not ir.may_merge(gate):
                continue
            ir.put(node, replace(spec, labels=(*spec.labels, ir.label_of(node)), act=Activation("silu")), x)
            ir.drop(gate)
            break
