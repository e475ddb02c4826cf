"""Says of every node which operation it is, however the model wrote it."""

from __future__ import annotations

from torch import fx

from fastconv.convert.ir import Context
from fastconv.convert.passes.functions import read_function
from fastconv.convert.passes.modules import read_module


def canonicalise(graph: fx.Graph, context: Context) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module":
            read_module(node, context)
        elif node.op in ("call_function", "call_method"):
            read_function(node, context)
