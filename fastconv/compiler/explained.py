"""fastconv.explain of a model given to torch.compile(model, backend="fastconv"): the graphs compiled so far."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from fastconv.compiler.backend import CompiledGraph, compiled_graphs
from fastconv.compiler.inference import Binding
from fastconv.convert.capture import is_scalar
from fastconv.convert.explain import Explanation, LayerRow, explain_node
from fastconv.convert.ir import label_of
from fastconv.convert.observe import random_inputs, values_read


def explain_compiled(model: nn.Module) -> Explanation:
    """Rows of every graph that was called with a tensor of the model: fused, or one for one where autograd records."""
    name = type(getattr(model, "_orig_mod", model)).__name__
    explanation = Explanation(f"{name}, compiled by fastconv")
    own = {id(t) for t in (*model.parameters(), *model.buffers())}
    for graph in sorted(compiled_graphs, key=lambda graph: graph.number):
        for binding in () if graph.converted is None else graph.converted.bindings():
            if binding.tensors() & own:
                explanation.rows += _fused_rows(binding)
        if graph.recorded_with() & own:
            explanation.rows += _recorded_rows(graph)
    return explanation


def _fused_rows(binding: Binding) -> list[LayerRow]:
    program = binding.program
    with binding.readable():
        try:
            read = values_read(program, binding.arguments(random_inputs(program)), refresh=False)
        except (RuntimeError, ValueError, NotImplementedError):
            read = None  # a part left to torch refused random numbers, or other sizes than it was compiled for
        return [
            row
            for node in program.graph.nodes
            for row in explain_node(program, node, "", None if read is None else read.get(node, ()))
        ]


def _recorded_rows(graph: CompiledGraph) -> Iterator[LayerRow]:
    """Calls as autograd records them, one kernel a function, of ours or of torch's."""
    if not isinstance(graph.one_for_one, fx.GraphModule):
        return
    for node in graph.one_for_one.graph.nodes:
        if node.op not in ("call_function", "call_method", "call_module") or is_scalar(node):
            continue
        name = str(getattr(node.target, "__name__", node.target))
        served = (getattr(node.target, "__module__", None) or "").startswith("fastconv.")
        why = "" if served else "fastconv has no such function, or not for this call"
        yield LayerRow((label_of(node),), name, served, name, why)
