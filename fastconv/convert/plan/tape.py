"""The planning run: the network is run once, step by step, with a recorder that notes every kernel call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from fastconv import _C
from fastconv.convert.plan.target import Target
from fastconv.convert.plan.values import DTYPES, Access, Storage, Value, four, same_view


class Unplannable(Exception):
    """The node is left to torch; the text says why."""


@dataclass(eq=False)
class Copy:
    """A copy that is left out where the source can lie in the target, or the target in the source."""

    segment: int
    position: int  # among the calls of the segment
    source: Value
    target: Value
    joins: bool  # into a part of the target; else the target is all of a copy


@dataclass(eq=False)
class Call:
    """One kernel call of a segment, `position` among those recorded and `step` among all."""

    position: int
    step: int
    op: str
    algorithm: str
    nodes: tuple[fx.Node, ...]
    uses: list[tuple[Storage, Access]]
    movable: bool  # every tensor is walked by extents and strides that may be exchanged

    @property
    def written(self) -> list[Storage]:
        return [storage for storage, use in self.uses if use.writes]

    @property
    def read(self) -> list[Storage]:
        return [storage for storage, use in self.uses if not use.writes]


@dataclass(eq=False)
class Segment:
    recorder: _C.Recorder
    calls: list[Call] = field(default_factory=list)


class Tape:
    """Storages, kernel calls in segments, and copies that may turn out to be none."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.storages: list[Storage] = []
        self.segments: list[Segment] = []
        self.copies: list[Copy] = []
        self.steps = 0
        self._open = False
        self.node: fx.Node | None = None  # whose calls are being recorded

    @property
    def segment(self) -> Segment:
        if not self._open:
            self.segments.append(Segment(self.target.recorder()))
            self._open = True
        return self.segments[-1]

    def close_segment(self) -> None:
        self._open = False

    def storage(self, x: Tensor, *, external: bool) -> Storage:
        made = Storage(
            len(self.storages), tuple(x.shape), x.stride(), x.dtype, x.data_ptr(), external,
            -1 if external else len(self.segments) - 1,
        )  # fmt: skip
        self.storages.append(made)
        return made

    def whole(self, x: Tensor, *, external: bool = False) -> Value:
        if x.dtype not in DTYPES and not external:
            raise Unplannable(f"its type is {x.dtype}")
        storage = self.storage(x, external=external)
        return Value(storage, storage.shape, storage.stride)

    def view(self, x: Tensor, base: Value) -> Value:
        """What x, which shares memory with the value, is in terms of the value's storage."""
        if x.numel() == 0:  # has no address
            return Value(base.storage, tuple(x.shape), x.stride())
        offset = x.data_ptr() - base.storage.address
        return Value(base.storage, tuple(x.shape), x.stride(), offset // x.element_size())

    def call(self, function: Any, read: list[tuple[Tensor, Value]], prepared: Any, *args: Any) -> Any:
        """Runs a function of ours, with the weights of `prepared`, while its kernel calls are noted; (result, value).

        Raises:
            Unplannable: something happens that is no kernel call on these values; nothing is noted then.
        """
        if _overlap({value.storage for _, value in read}):
            raise Unplannable("its arguments share memory, which they need not do at the next call")
        segment = self.segment
        recorder = segment.recorder
        recorder.begin()
        try:
            result = function(*args)
        except BaseException:
            recorder.forget()
            raise
        if not isinstance(result, Tensor):
            recorder.forget()
            raise Unplannable("it has several results")
        known = {value.storage.index: value.storage for _, value in read}
        shared = _holding(result, known.values())
        made = None if shared is not None else self.whole(result)
        if made is not None:
            known[made.storage.index] = made.storage
        named = [(s.address, s.bytes, index) for index, s in known.items()]
        owned = [(w.data_ptr(), w.untyped_storage().nbytes(), 0) for w in tensors_of(prepared)]  # packed by now
        noted, why = recorder.end(named, owned, -1 if made is None else made.storage.index)
        if why:
            raise Unplannable(why)
        self._note(segment, noted)
        if made is None:
            assert shared is not None
            return result, self.view(result, Value(shared, shared.shape, shared.stride))
        return result, made

    def combine(self, what: str, shape: tuple[int, ...], values: list[Value], strides: list[tuple[int, ...]]) -> None:
        """A copy, sum or product of tensors of one shape, walked by these strides; the last value is the result."""
        folded = four(shape, strides)
        if folded is None:
            raise Unplannable("more than four dimensions")
        operands = [
            (value.storage.index, value.offset * value.dtype.itemsize, DTYPES[value.dtype], folded[0], steps)
            for value, steps in zip(values, folded[1], strict=True)
        ]
        segment = self.segment
        self._note(segment, [segment.recorder.combine(what, operands)])

    def copy(self, source: Value, target: Value, *, joins: bool = False) -> None:
        position = len(self.segment.recorder)
        self.combine("copy", target.shape, [source, target], [source.stride, target.stride])
        if joins:
            # A part moves with the whole, as long as the dimension along which parts lie keeps its stride.
            made = target.storage
            made.uses[-1] = replace(made.uses[-1], movable=True)
        self.copies.append(Copy(len(self.segments) - 1, position, source, target, joins))

    def _note(self, segment: Segment, noted: list[_C.Noted]) -> None:
        first = len(segment.recorder) - len(noted)
        for i, call in enumerate(noted):
            assert self.node is not None
            self.steps += 1
            self.add(segment, call, first + i, self.steps, (self.node,))

    def add(self, segment: Segment, noted: _C.Noted, position: int, step: int, nodes: tuple[fx.Node, ...]) -> Call:
        """Enters a recorded call into the books of the storages it touches."""
        number = self.segments.index(segment)
        made = Call(position, step, noted.op, noted.algorithm, nodes, [], all(use.sizes for use in noted.uses))
        for use in noted.uses:
            storage = self.storages[use.value]
            movable = use.offset == 0 and bool(use.sizes)
            movable = movable and same_view(use.sizes, use.strides, storage.shape, storage.stride)
            access = Access(number, step, use.writes, movable)
            storage.uses.append(access)
            made.uses.append((storage, access))
            if storage.segment != number and not storage.external:
                storage.crosses = True
        segment.calls.append(made)
        return made

    def remove(self, segment: Segment, call: Call) -> None:
        segment.calls.remove(call)
        for storage, access in call.uses:
            storage.uses.remove(access)


def _overlap(storages: set[Storage]) -> bool:
    """Whether an address does not say which of them it is in: one tensor as two inputs, say."""
    end = 0
    for storage in sorted(storages, key=lambda storage: storage.address):
        if storage.address < end:
            return True
        end = storage.address + storage.bytes
    return False


def _holding(x: Tensor, storages: Any) -> Storage | None:
    address = x.data_ptr()
    for storage in storages:
        if storage.address <= address < storage.address + max(storage.bytes, 1):
            return storage
    return None


def tensors_of(prepared: Any, *, spare_unpacked: bool = False) -> list[Tensor]:
    """The memory that a step's kernel calls may read as weights; kernels read an unpacked weight where there is no
    packed one."""
    if prepared is None:
        return []
    packs = prepared.packs()
    unpacked = None if spare_unpacked and prepared.is_packed() else prepared.weight
    held = (unpacked, prepared.bias, prepared.alpha, *packs)
    return [part for part in held if isinstance(part, Tensor)]
