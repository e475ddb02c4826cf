"""A plan as a graph of a GPU: captured once on tensors of its own, replayed at each call.

A call copies its inputs into the graph's, replays, and copies the outputs out, so that earlier results stay as they
are. Where there can be no graph the plan runs segment by segment, and `why` says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fastconv.convert import steps
from fastconv.convert.plan.cuda_graph import made_here
from fastconv.convert.plan.operations import is_torchs
from fastconv.convert.plan.planner import LeftNode
from fastconv.convert.plan.values import Late, Value, leaves_of, span
from fastconv.nn.fold import Sources

if TYPE_CHECKING:
    from fastconv.convert.plan.cuda_graph import Graphs
    from fastconv.convert.plan.program import PlannedProgram


class Graphed:
    """The graph of one plan; made at the first call after planning, whose shapes have then come twice."""

    def __init__(self, plan: PlannedProgram, program: Any, graphs: Graphs | str) -> None:
        self._plan = plan
        self._graphs: Graphs | None = None if isinstance(graphs, str) else graphs
        self.why: str | None = graphs if isinstance(graphs, str) else _refusal(plan, program)
        self._replay: _Replay | None = None
        self._made = made_here([plan.device])

    @property
    def is_captured(self) -> bool:
        return self._replay is not None

    @property
    def bytes(self) -> int:
        replay = self._replay  # which another thread may take away
        return 0 if replay is None else replay.bytes

    @property
    def arena_bytes(self) -> int:
        return 0 if self._replay is None else self._plan.arena_bytes

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        for made in self._made:
            made.read(lambda: self._plan.weights)
        if self.why is not None or self._graphs is None or self._graphs.busy() is not None:
            return self._plan(tensors)
        replay = self._replay
        if replay is None or not replay.is_current():
            with self._graphs.turn(()):
                if self._replay is replay and self.why is None:  # no other thread was first
                    self._replay = None  # before another is captured in its memory
                    self._replay = self._capture(self._graphs, tensors)
                replay = self._replay
        return self._plan(tensors) if replay is None else replay(self._graphs, tensors)

    def _capture(self, graphs: Graphs, tensors: Sequence[Tensor]) -> _Replay | None:
        try:
            return _Replay(self._plan, graphs, tensors)
        except Exception as error:  # of whatever kind: the plan itself serves the call, or raises
            self.why = str(error) if isinstance(error, _Uncapturable) else f"{type(error).__name__}: {error}"
            return None


class _Replay:
    def __init__(self, plan: PlannedProgram, graphs: Graphs, tensors: Sequence[Tensor]) -> None:
        self._plan = plan
        self._reads = _TensorsLeft(plan.steps, plan.device)
        # Not tensors of inference mode, which nobody could write to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = [_copy(x) for x in tensors]
            self._entries = [x if _has_gaps(x) else _flat(x) for x in self._inputs]
            if plan.left:
                self._look(graphs)
            graphs.warm_up(lambda: plan.compute(self._inputs))
            self._graph, memory = graphs.capture(lambda: plan.compute(self._inputs))
        leaves = leaves_of(plan.outputs)
        made = {leaf.storage.index for leaf in leaves if isinstance(leaf, Value)} - set(plan.inputs)
        # What is no output goes back to the graph's memory.
        self._held = {index: memory.held[index] for index in made}
        self._late = {leaf.node: memory.late[leaf.node] for leaf in leaves if isinstance(leaf, Late)}

    def _look(self, graphs: Graphs) -> None:
        """Runs once to see what torch does in between; its libraries choose their kernels on the way."""
        watching = _Watching()

        def run() -> None:
            with watching:
                self._plan.compute(self._inputs)

        devices = {x.device for x in self._inputs if x.is_cuda}
        with torch.random.fork_rng(devices):
            graphs.warm_up(run)
        if watching.reason is not None:
            raise _Uncapturable(watching.reason)

    @property
    def bytes(self) -> int:
        late = [x for x in pytree.tree_leaves(list(self._late.values())) if isinstance(x, Tensor)]
        return sum(_flat(x).nbytes for x in [*self._inputs, *self._held.values(), *late])

    def is_current(self) -> bool:
        return self._reads.unchanged()

    def __call__(self, graphs: Graphs, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        memory = self._plan.memory(tensors)
        with graphs.turn(self._inputs):
            for mine, x in zip(self._entries, tensors, strict=True):
                mine.copy_(x if mine.shape == x.shape else _flat(x))
            self._graph.replay()
            memory.held.update((index, _copy(x)) for index, x in self._held.items())
            memory.late.update((node, pytree.tree_map_only(Tensor, _copy, x)) for node, x in self._late.items())
        return tuple(memory.real(leaf) for leaf in self._plan.outputs)


def _flat(x: Tensor) -> Tensor:
    """The memory from x's first element to its last: copied in one go, whatever the strides."""
    return x.as_strided((span(tuple(x.shape), x.stride()),), (1,))


def _has_gaps(x: Tensor) -> bool:
    """Whether x is a part of its span, with no element twice: then its elements are copied one by one."""
    if x.numel() >= span(tuple(x.shape), x.stride()):
        return False
    end = 1  # behind the last element of the dimensions so far
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and step < end:
            return False
        end += step * (size - 1)
    return True


def _copy(x: Tensor) -> Tensor:
    """Of x's strides."""
    if _has_gaps(x):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)
    flat = _flat(x)
    return torch.empty_like(flat).copy_(flat).as_strided(x.shape, x.stride(), 0)


class _Uncapturable(Exception):
    pass


def _refusal(plan: PlannedProgram, program: Any) -> str | None:
    """What is known to stand against a graph before anything runs."""
    if not program.store.graphs_allowed:
        return "FASTCONV_CUDA_GRAPH=0"
    if not program.may_run_early():
        return "code of the model's own runs between kernels"
    for entry in plan.left:
        if entry.node.op == "call_function" and not is_torchs(entry.node.target):
            return f"{entry.node.name} is a function of the model's own"
        if entry.node.target in ("as_strided", torch.as_strided):
            return f"{entry.node.name} may read beside the input, which is copied"
    return _too_small(plan)


def _too_small(plan: PlannedProgram) -> str | None:
    """Whether a replay would launch no less than the plan does: it copies inputs and outputs."""
    left = [step for step in plan.steps if isinstance(step, tuple) and not isinstance(step[1], steps.ReadStep)]
    launches = plan.kernel_count + len(left)
    leaves = leaves_of(plan.outputs)
    made = {leaf.storage.index for leaf in leaves if isinstance(leaf, Value)} - set(plan.inputs)
    copies = len(plan.inputs) + len(made) + len({leaf.node for leaf in leaves if isinstance(leaf, Late)})
    if launches > copies + 1:
        return None
    return f"{launches} launches are no more than a replay has: {copies} copies and the graph's"


class _Watching(TorchDispatchMode):
    """Looks for what a graph cannot hold in what torch computes: failed captures leave traces in torch's allocator."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if why := _waits(function, args, kwargs, result):
            self.reason = self.reason or f"{function.overloadpacket.__name__} {why}"
        return result


def _waits(function: Any, args: Any, kwargs: Any, result: Any) -> str | None:
    tags = function.tags
    read, made = ([x for x in pytree.tree_leaves(part) if isinstance(x, Tensor)] for part in ((args, kwargs), result))
    # A number as a tensor of the host's is passed with the launch; _TensorsLeft notices when the model changes it.
    devices = {x.device for x in made} | {x.device for x in read if x.dim() or x.device.type != "cpu"}
    if len(devices) > 1:
        return "moves values between the host and the GPU"
    if torch.Tag.nondeterministic_seeded in tags:
        return "draws random numbers"
    if torch.Tag.data_dependent_output in tags:
        return "gives a value to the host"
    name, by_mask = function.overloadpacket.__name__, None
    if name in _BY_INDICES:
        by_mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if torch.Tag.dynamic_output_shape in tags and by_mask is not False:
        return "makes a tensor whose extents depend on values"
    if by_mask:
        return "asks the GPU how many places a mask has"
    number = args[-1] if name in _BY_NUMBER and args else None
    if name in _WAITING or _SOLVER.match(name) or (isinstance(number, Tensor) and number.device.type != "cpu"):
        return "waits for the GPU"
    return None


# What torch computes with a look at values from the host, and has no tag for.
_BY_INDICES = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
_BY_NUMBER = {"masked_fill", "masked_fill_", "index_fill", "index_fill_"}  # where the last argument is the GPU's
_WAITING = {
    "histc", "isin", "embedding_renorm_", "cholesky", "cholesky_inverse", "_cholesky_solve_helper", "geqrf", "ormqr",
    "triangular_solve",
}  # fmt: skip
_SOLVER = re.compile("_?linalg_(?!vector_norm|cross)")


class _TensorsLeft:
    """The model's tensors that operations left to torch read. A graph knows those of the GPU by their addresses, and
    the numbers that torch passes with a launch from tensors of the host's by the values that they had."""

    def __init__(self, entries: Sequence[Any], device: torch.device) -> None:
        self._found: list[tuple[dict[str, Any], str, Any, int]] = []
        for step in entries:
            if not isinstance(step, tuple) or not isinstance(step[0], LeftNode):
                continue
            function = step[1]
            if isinstance(function, steps.OwnTypeStep):
                function = function.function
            if isinstance(function, steps.ReadStep):
                weight = function.weight
                # Without slots it is one tensor for good, an attribute say, whose memory may still be exchanged.
                for owner, name in weight.slots or (({weight.label: weight.read()}, weight.label),):
                    self._add(owner, name)
            elif isinstance(function, nn.Module):
                for module in function.modules():
                    for owner in (module._parameters, module._buffers):
                        for name in owner:
                            self._add(owner, name)
        self._numbers = Sources(
            (owner, name) for owner, name, x, _ in self._found if isinstance(x, Tensor) and x.device != device
        )

    def _add(self, owner: dict[str, Any], name: str) -> None:
        tensor = owner.get(name)
        self._found.append((owner, name, tensor, tensor.data_ptr() if isinstance(tensor, Tensor) else 0))

    def unchanged(self) -> bool:
        return self._numbers.unchanged() and all(
            owner.get(name) is tensor and (not isinstance(tensor, Tensor) or tensor.data_ptr() == address)
            for owner, name, tensor, address in self._found
        )
