"""The plans of a program, by the shapes, strides and types of its inputs; the least recently used ones go."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.convert.plan.graphed import Graphed
from fastconv.convert.plan.planner import LeftFailed, LeftNode, Planner
from fastconv.convert.plan.program import Mismatch, Moved, PlannedProgram
from fastconv.convert.plan.tape import tensors_of
from fastconv.convert.plan.target import Random, Target
from fastconv.functional import choice

# Each is a few hundred kilobytes; the arenas are shared.
MAX_PLANS = 128


class Plans:
    """Belongs to a program; the arenas belong to all programs of a network."""

    def __init__(self, program: Any, pool: Any) -> None:
        self._program, self._pool = program, pool
        self._plans: OrderedDict[Any, PlannedProgram | None] = OrderedDict()
        self._generation = -1
        self.refusal: str | None = None  # why the shapes planned last have no plan
        self.last: PlannedProgram | None = None
        self._possible = not any(_changes_values(node) for node in program.graph.nodes)

    def outputs(
        self, tensors: Sequence[Tensor], direct: SimpleNamespace, generation: int, target: Target
    ) -> tuple[Any, ...] | None:
        """The program's outputs by a plan, made now if these shapes have none; None where there cannot be one."""
        if not self._possible:
            return None
        key = (choice.epoch(), target.key(tensors), *[(x.shape, x.stride(), x.dtype) for x in tensors])
        if self._generation == generation:
            plan = self._plans.get(key, self)
            if plan is not self:
                return self._run(key, plan, tensors)
        if torch._C._len_torch_dispatch_stack():
            return None
        with self._program.store.lock:
            if self._program.store.generation != generation:
                return None  # another thread has just remade the weights; the steps serve this call
            plan = self._plans.get(key, self) if self._generation == generation else self
            if plan is self:  # no other thread was first
                return self._make(key, tensors, direct, generation, target)
        return self._run(key, plan, tensors)

    def _run(self, key: Any, plan: Any, tensors: Sequence[Tensor]) -> tuple[Any, ...] | None:
        self.last = plan
        if plan is None or torch._C._len_torch_dispatch_stack():
            return None
        with contextlib.suppress(KeyError):  # another thread has just dropped it
            self._plans.move_to_end(key)
        try:
            outputs: tuple[Any, ...] = plan(tensors) if plan.graph is None else plan.graph(tensors)
        except Mismatch as error:
            self._plans[key] = None
            self.refusal = str(error)
            return None
        return outputs

    def _make(
        self, key: Any, tensors: Sequence[Tensor], direct: Any, generation: int, target: Target
    ) -> tuple[Any, ...] | None:
        if self._generation != generation:
            self._plans.clear()
            self._generation = generation
        plan, outputs, raised, self.refusal = None, None, None, None
        if all(x.numel() > 0 for x in tensors):
            random = Random(target.device)
            try:
                with torch.no_grad():
                    plan, outputs = self._plan(tensors, direct, random, target)
            except LeftFailed as error:  # not to be run again
                raised = error.error
            except Exception as error:  # whatever it is: what a call may raise is for the steps to say
                self.refusal = f"{type(error).__name__}: {error}"
                random.restore()
        if raised is not None:
            raise raised
        if plan is not None and target.on_host and self.count == 0:
            # Planning reads them: a network whose shapes change would fold its weights at each new one.
            _let_go(self._program)
        self._plans[key] = self.last = plan
        while len(self._plans) > MAX_PLANS:
            self._plans.popitem(last=False)
        return outputs

    def _plan(
        self, tensors: Sequence[Tensor], direct: Any, random: Random, target: Target
    ) -> tuple[PlannedProgram | None, Any]:
        traced = Planner(self._program, direct, list(tensors), target).run(list(tensors))
        if not traced.tape.steps:
            return None, traced.results
        rest = (direct, self._pool, _weights(self._program, target))
        try:
            plan = PlannedProgram(self._program, traced, *rest)
        except Moved as error:
            if not self._program.may_run_early():  # then not a second time: its results are the call's
                self.refusal = f"{type(error).__name__}: {error}"
                return None, traced.results
            random.restore()
            traced = Planner(self._program, direct, list(tensors), target).run(list(tensors))
            plan = PlannedProgram(self._program, traced, *rest, may_place=False)
        if not target.on_host:
            plan.graph = Graphed(plan, self._program, self._program.store.graphs(target))
        if not plan.fused:
            return plan, traced.results
        if any(isinstance(entry, LeftNode) for entry in traced.order):  # others draw no random numbers
            random.restore()
        return plan, plan(tensors)  # so that the first call's bits are those of all others

    @property
    def count(self) -> int:
        return sum(plan is not None for plan in self._all())

    def _all(self) -> list[PlannedProgram | None]:
        """In one instruction: calls in other threads move plans to the end meanwhile, without a lock."""
        return list(self._plans.values())

    @property
    def graph_bytes(self) -> tuple[int, int]:
        """Memory of the captured graphs: of their inputs and outputs, and the largest arena, which lies over others."""
        graphs = [plan.graph for plan in self._all() if plan is not None and plan.graph is not None]
        return sum(graph.bytes for graph in graphs), max((graph.arena_bytes for graph in graphs), default=0)


def _let_go(program: Any) -> None:
    """Frees what the steps read and the plan does not."""
    for function in vars(program.functions).values():
        prepared = getattr(function, "prepared", None)
        if prepared is not None:
            prepared.let_go()


def _weights(program: Any, target: Target) -> list[Tensor]:
    """The weights in the kernels' order, and those that have no such order: on a GPU all."""
    found: list[Tensor] = []
    for function in vars(program.functions).values():
        prepared = getattr(function, "prepared", None)
        if prepared is not None:
            found += tensors_of(prepared, spare_unpacked=target.on_host)
    return found


def _changes_values(node: fx.Node) -> bool:
    """Whether something writes in place: then values are more than results of their nodes."""
    return bool(node.meta.get("pinned"))
