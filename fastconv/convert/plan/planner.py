"""From a lowered graph and the tensors of one call to a tape: every node either becomes kernel calls of ours, or a view
of what they write, or a constant of these shapes, or stays with torch.

Values are computed on the way: the first call of a shape gets its outputs from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.convert import steps
from fastconv.convert.capture import is_scalar
from fastconv.convert.observe import function_of
from fastconv.convert.plan import operations
from fastconv.convert.plan.tape import Tape, Unplannable
from fastconv.convert.plan.target import Target
from fastconv.convert.plan.values import Late, Value, is_memory, is_walkable, leaves_of

# Numbers that depend on values, not on shapes.
_DATA = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__"}


@dataclass(frozen=True)
class LeftNode:
    """Something that torch computes between segments; `arguments` hold values, late ones and constants."""

    node: fx.Node
    arguments: tuple[Any, Any]
    why: str


class LeftFailed(Exception):
    """What is left to torch, code of the user's own perhaps, raised `error`: that is the call's outcome."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Traced:
    """The planning run: what runs in which order, and what comes out."""

    tape: Tape
    inputs: list[Value]
    order: list[int | LeftNode] = field(default_factory=list)  # segments and what is left to torch
    outputs: tuple[Any, ...] = ()  # in terms of values
    results: tuple[Any, ...] = ()  # of this run
    made_by: dict[int, fx.Node] = field(default_factory=dict)  # storages of what is left to torch


class Planner:
    """Walks a program once."""

    def __init__(self, program: Any, direct: Any, tensors: list[Tensor], target: Target) -> None:
        self._program, self._direct, self._target = program, direct, target
        self.tape = Tape(target)
        inputs = [self.tape.whole(x, external=True) for x in tensors]
        self.traced = Traced(self.tape, inputs)
        self._real: dict[fx.Node, Any] = {}
        self._known: dict[fx.Node, Any] = {}
        self._left: LeftNode | None = None

    def run(self, tensors: list[Tensor]) -> Traced:
        graph = self._program.graph
        inputs = iter(zip(tensors, self.traced.inputs, strict=True))
        last_reader = {value: node for node in graph.nodes for value in node.all_input_nodes}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._real[node], self._known[node] = next(inputs)
                continue
            args = fx.node.map_arg((node.args, node.kwargs), lambda value: self._real[value])
            known = fx.node.map_arg((node.args, node.kwargs), lambda value: self._known[value])
            if node.op == "output":
                self._finish(args[0][0], known[0][0])
                return self.traced
            self._real[node], self._known[node] = self._visit(node, args, known)
            for value in node.all_input_nodes:
                if last_reader[value] is node:
                    del self._real[value], self._known[value]
        raise AssertionError("a graph without output")

    def _visit(self, node: fx.Node, args: Any, known: Any) -> tuple[Any, Any]:
        function = function_of(self._program, node)
        leaves = leaves_of(known)
        late = any(isinstance(leaf, Late) for leaf in leaves)
        self.tape.node = node
        if not late and self._is_constant(node, function, leaves):
            result = function(*args[0], **args[1])
            return result, result
        why = "it depends on what torch computes here"
        if not late:
            try:
                return self._plan(node, function, args, known)
            except Unplannable as error:
                why = str(error)
        return self._leave(node, function, args, known, why)

    def _is_constant(self, node: fx.Node, function: Any, leaves: list[Any]) -> bool:
        """Whether the node's value is no tensor and follows from shapes that are known."""
        if isinstance(function, steps.FormatStep) or node.target is steps.all_of:
            return True
        if node.target is not steps.is_channels_last and not is_scalar(node):
            return False
        if str(node.target) in _DATA:
            return False
        return all(not isinstance(leaf, Value) or self._has_known_shape(leaf) for leaf in leaves)

    def _has_known_shape(self, value: Value) -> bool:
        return value.storage.index not in self.traced.made_by

    def _plan(self, node: fx.Node, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
        if isinstance(function, operations.STEPS):
            return self._step(node, function, args, known)
        handler = operations.find(node, function)
        if handler is None:
            raise Unplannable("no kernel of ours computes it")
        if not args[0]:
            raise Unplannable("its input is given by name")
        return handler(self.tape, function, args, known)

    def _step(self, node: fx.Node, step: Any, args: Any, known: Any) -> tuple[Any, Any]:
        if args[1] or not all(isinstance(value, Value) for value in known[0]):
            raise Unplannable("its arguments are no tensors of this graph")
        read = [
            self._ready(x, value, getattr(step, "dtype", None), step)
            for x, value in zip(args[0], known[0], strict=True)
        ]
        direct = getattr(self._direct, str(node.target))
        return self.tape.call(direct, read, getattr(step, "prepared", None), *(x for x, _ in read))

    def _ready(self, x: Tensor, value: Value, dtype: torch.dtype | None, step: Any) -> tuple[Tensor, Value]:
        """The argument as the step's kernels take it: of its type, and without gaps."""
        if dtype is not None and x.dtype is not dtype:
            return operations.copied(self.tape, x, value, x.to(dtype))
        if isinstance(step, steps.SoftmaxStep) and not x.is_contiguous():
            return operations.copied(self.tape, x, value, x.contiguous())
        if x.dim() == 4 and not is_walkable(x):
            return operations.copied(self.tape, x, value, operations.dense(x))
        return x, value

    def _leave(self, node: fx.Node, function: Any, args: Any, known: Any, why: str) -> tuple[Any, Any]:
        direct = getattr(self._direct, str(node.target), function) if node.op == "call_module" else function
        try:
            result = direct(*args[0], **args[1])
        except Exception as error:
            raise LeftFailed(error) from error
        if not isinstance(function, steps.ReadStep):  # a weight is there before the segment that is being made
            self.tape.close_segment()
            for leaf in leaves_of(known):
                if isinstance(leaf, Value):
                    leaf.storage.crosses = True
            self._record_open_segment()
        self.traced.order.append(LeftNode(node, known, why))
        if not is_memory(result) or not self._target.owns(result):
            return result, Late(node)
        value = self.tape.whole(result, external=True)
        self.traced.made_by[value.storage.index] = node
        return result, value

    def _record_open_segment(self) -> None:
        done = sum(isinstance(entry, int) for entry in self.traced.order)
        self.traced.order.extend(range(done, len(self.tape.segments)))

    def _finish(self, results: Any, known: Any) -> None:
        self._record_open_segment()
        for leaf in leaves_of(known):
            if isinstance(leaf, Value):
                leaf.storage.crosses = True
        self.traced.outputs, self.traced.results = tuple(known), tuple(results)
