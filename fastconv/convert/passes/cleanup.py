"""Removes what does nothing in inference: dropout and identities."""

from __future__ import annotations

from torch import fx, nn

from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.ir import Context
from fastconv.nn.weights import has_hooks

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def remove_identities(graph: fx.Graph, context: Context) -> None:
    for node in list(graph.nodes):
        if _is_identity(node, context) and isinstance(node.args[0] if node.args else None, fx.Node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_identity(node: fx.Node, context: Context) -> bool:
    if node.op == "call_module":
        module = context.module(node)
        return type(module) in (nn.Identity, *_DROPOUTS) and not has_hooks(module) and not node.kwargs
    operation = operation_of(node)
    if operation == "dropout":
        return arguments_of(node, operation).get("training", True) is False
    if operation == "raw_dropout":
        return arguments_of(node, operation).get("train") is False
    return False
