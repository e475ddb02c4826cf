"""Running a converted network step by step, for whoever wants to look at each value or take its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from fastconv.convert.program import Program

# Called with the node, what it runs, and the arguments; returns the value.
Visit = Callable[[fx.Node, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def walk(
    program: Program, tensors: list[Any] | tuple[Any, ...], visit: Visit, *, refresh: bool = True
) -> tuple[Any, ...]:
    """The program's outputs, each step through `visit`; values are freed after their last reader as in a plain run.

    With `refresh` the weights are those of now; without, as they were made last.
    """
    if refresh:
        program.store.refresh()
    values: dict[fx.Node, Any] = {}
    inputs = iter(tensors)
    last_reader = {value: node for node in program.graph.nodes for value in node.all_input_nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda value: values[value])
        if node.op == "output":
            return tuple(args[0])
        values[node] = visit(node, function_of(program, node), args, kwargs)
        for value in node.all_input_nodes:
            if last_reader[value] is node:
                del values[value]
    raise AssertionError("a graph without output")


def function_of(program: Program, node: fx.Node) -> Callable[..., Any]:
    """What the node calls."""
    if node.op == "call_module":
        return getattr(program.functions, str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda receiver, *args, **kwargs: getattr(receiver, name)(*args, **kwargs)
    target: Any = node.target
    return target


def example_values(program: Program) -> dict[fx.Node, tuple[torch.Tensor, ...]] | None:
    """The tensors that each step reads in a run on random inputs of the last call's shapes; None before any call."""
    return None if program.seen is None else values_read(program, list(random_inputs(program)))


def values_read(
    program: Program, inputs: list[Any], *, refresh: bool = True
) -> dict[fx.Node, tuple[torch.Tensor, ...]]:
    """The tensors that each step reads in a run on these inputs."""
    read: dict[fx.Node, tuple[torch.Tensor, ...]] = {}

    def visit(node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        read[node] = tuple(argument for argument in args if isinstance(argument, torch.Tensor))
        return function(*args, **kwargs)

    with torch.no_grad():
        walk(program, inputs, visit, refresh=refresh)
    return read


def random_inputs(program: Program) -> Iterator[torch.Tensor]:
    """Tensors like those of the last call."""
    for shape, dtype, device in program.seen or ():
        if dtype.is_floating_point:
            yield torch.rand(shape, dtype=dtype, device=device)
        else:
            yield torch.zeros(shape, dtype=dtype, device=device)
