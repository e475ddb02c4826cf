"""What runs at a call whose shapes have a plan: segments of kernel calls, and what torch computes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from fastconv.convert.observe import function_of
from fastconv.convert.plan import placement
from fastconv.convert.plan.fusion import fuse
from fastconv.convert.plan.planner import LeftNode, Traced
from fastconv.convert.plan.values import Late, Storage, Value, is_memory

if TYPE_CHECKING:
    from fastconv.convert.plan.graphed import Graphed


class Mismatch(Exception):
    """Something left to torch made a tensor of other extents than in the planning run."""


class Moved(Exception):
    """An algorithm does not take its tensors where the plan has them."""


class _Run:
    """One segment: which memory it reads and makes, as numbers of storages."""

    def __init__(self, traced: Traced, number: int, left_out: set[int], pool: Any) -> None:
        tape = traced.tape
        offsets, total = placement.layout(tape, number)
        self.reads: list[Storage] = []
        self.makes: list[Storage] = []
        places: list[tuple[int, int, tuple[int, ...]]] = []
        for storage in tape.storages:
            root, _ = storage.root()
            if not any(use.segment == number for use in storage.uses):
                continue
            if root.external or (root.crosses and root.segment < number):
                if root not in self.reads:
                    self.reads.append(root)
            elif root.crosses and root not in self.makes:
                self.makes.append(root)
        bases = {storage.index: 1 + i for i, storage in enumerate([*self.reads, *self.makes])}
        for storage in tape.storages:
            root, offset = storage.root()
            base = bases.get(root.index, 0 if root.index in offsets else -1)
            places.append((base, offsets.get(root.index, 0) + offset, storage.placed_stride() or ()))
        segment = tape.segments[number]
        self.plan = segment.recorder.finish(places, left_out, total, len(self.reads), len(self.makes), pool)
        self.target = tape.target
        if why := self.target.refusal(self.plan):
            raise Moved(why)
        self.specs = [(s.shape, s.stride, s.dtype) for s in self.makes]
        self.guards = [(s.index, self._kind(s)) for s in self.reads if s.index in traced.made_by]

    def _kind(self, x: Any) -> Any:
        address = x.address if isinstance(x, Storage) else x.data_ptr()
        stride = x.stride if isinstance(x, Storage) else x.stride()
        return tuple(x.shape), stride, x.dtype, None if self.target.on_host else address % 16

    def __call__(self, held: dict[int, Tensor]) -> None:
        for index, kind in self.guards:
            if self._kind(held[index]) != kind:
                raise Mismatch("what torch computes has other extents or strides than in the planning run")
        outputs = self.launch([held[s.index] for s in self.reads])
        for storage, y in zip(self.makes, outputs, strict=True):
            held[storage.index] = y

    def launch(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = [self.target.empty(*spec) for spec in self.specs]
        self.target.run(self.plan, inputs, outputs)
        return outputs


class PlannedProgram:
    """The plan of one program for one set of shapes. It keeps the weights alive that its kernel calls read.

    Raises:
        Moved: only with `may_place`, without which every tensor has memory of its own.
    """

    def __init__(
        self, program: Any, traced: Traced, direct: Any, pool: Any, weights: list[Tensor], may_place: bool = True
    ) -> None:
        # The first call then runs twice, which code of the user's own would notice.
        self.fused = fuse(traced.tape) if program.may_run_early() else 0
        left_out = placement.place(traced.tape) if may_place else [set() for _ in traced.tape.segments]
        self.graph: Graphed | None = None
        self.device = traced.tape.target.device
        self.inputs = [value.storage.index for value in traced.inputs]
        self.steps: list[Any] = []
        self.runs: list[_Run] = []
        for entry in traced.order:
            if isinstance(entry, LeftNode):
                function = function_of(program, entry.node)
                if entry.node.op == "call_module":
                    function = getattr(direct, str(entry.node.target), function)
                self.steps.append((entry, function, _storage_of(entry, traced)))
            else:
                run = _Run(traced, entry, left_out[entry], pool)
                if run.plan.kernels:
                    self.runs.append(run)
                    self.steps.append(run)
        # The kernel calls of every node, and what else the plan takes: views, and copies that are none.
        self.by_node: dict[fx.Node, list[tuple[str, int]]] = {}  # operation, and of how many nodes
        for segment, gone in zip(traced.tape.segments, left_out, strict=True):
            for call in segment.calls:
                for node in call.nodes:
                    calls = self.by_node.setdefault(node, [])
                    calls += [] if call.position in gone else [(call.op, len(call.nodes))]
        self.left = [entry for entry in traced.order if isinstance(entry, LeftNode)]
        self.outputs = traced.outputs
        self.weights = weights
        self._only = self._single()

    def _single(self) -> Any:
        """The run, where it is all there is and its results are the outputs as they are."""
        if len(self.steps) != 1 or not self.runs:
            return None
        run = self.runs[0]
        order: list[int] = []
        for value in self.outputs:
            if not isinstance(value, Value) or value.storage not in run.makes:
                return None
            storage = value.storage
            if not value.is_whole:
                # A view of all of it can be made as such.
                place = run.makes.index(storage)
                dense = value.offset == 0 and _numel(value.shape) == _numel(storage.shape)
                once = sum(isinstance(v, Value) and v.storage is storage for v in self.outputs) == 1
                if not dense or not once:
                    return None
                run.specs[place] = (value.shape, value.stride, value.dtype)
            order.append(run.makes.index(storage))
        reads = [self.inputs.index(s.index) for s in run.reads]
        return run, reads, order

    @property
    def arena_bytes(self) -> int:
        return max((run.plan.arena_bytes for run in self.runs), default=0)

    @property
    def kernel_count(self) -> int:
        return sum(len(run.plan.kernels) for run in self.runs)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        if self._only is not None:
            run, reads, order = self._only
            outputs = run.launch([tensors[i] for i in reads])
            return tuple(outputs[i] for i in order)
        memory = self.compute(tensors)
        return tuple(memory.real(leaf) for leaf in self.outputs)

    def memory(self, tensors: Sequence[Tensor]) -> Memory:
        return Memory(dict(zip(self.inputs, tensors, strict=True)))

    def compute(self, tensors: Sequence[Tensor]) -> Memory:
        """Runs everything."""
        memory = self.memory(tensors)
        held, late = memory.held, memory.late
        for step in self.steps:
            if isinstance(step, _Run):
                step(held)
                continue
            entry, function, storage = step
            args, kwargs = fx.node.map_aggregate(entry.arguments, memory.real)
            result = function(*args, **kwargs)
            if storage is None:
                late[entry.node] = result
            elif not is_memory(result):
                raise Mismatch("what torch computes is no tensor in memory any more")
            else:
                held[storage] = result
        return memory


@dataclass
class Memory:
    """What a run holds: tensors by the numbers of their storages, and other results of what is left to torch."""

    held: dict[int, Tensor]
    late: dict[Any, Any] = field(default_factory=dict)

    def real(self, leaf: Any) -> Any:
        if isinstance(leaf, Late):
            return self.late[leaf.node]
        return _tensor(leaf, self.held) if isinstance(leaf, Value) else leaf


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _storage_of(entry: LeftNode, traced: Traced) -> int | None:
    return next((index for index, node in traced.made_by.items() if node is entry.node), None)


def _tensor(value: Value, held: dict[int, Tensor]) -> Tensor:
    base = held[value.storage.index]
    if value.is_whole:
        return base
    if not value.storage.external:
        return base.as_strided(value.shape, value.stride, value.offset)
    if tuple(base.shape) != value.storage.shape or base.stride() != value.storage.stride:
        raise Mismatch("what torch computes has other extents or strides than in the planning run")
    return base.as_strided(value.shape, value.stride, base.storage_offset() + value.offset)
