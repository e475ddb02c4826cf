"""Where every storage of a tape lies: concatenations in place, results over operands that end there, one arena for the
rest."""

from __future__ import annotations

import math

from fastconv import _C
from fastconv.convert.plan.tape import Copy, Tape
from fastconv.convert.plan.target import ALIGNMENT
from fastconv.convert.plan.values import Access, Storage

_WIDEST = 16  # bytes of one access on a GPU
_ELEMENTWISE = ("activation", "batch_norm_act", "add", "mul")


def place(tape: Tape) -> list[set[int]]:
    """Decides on aliases; returns the calls of each segment that are left out because their copies are none."""
    left_out: list[set[int]] = [set() for _ in tape.segments]
    joints: dict[Storage, list[Copy]] = {}
    for copy in tape.copies:
        if copy.joins:
            joints.setdefault(copy.target.storage, []).append(copy)
    # The concatenation that contains others before those: its parts lie in it, and theirs with them.
    for joint in sorted(joints, key=lambda joint: -joint.bytes):
        copies = joints[joint]
        there = _is_never_read(joint) or _lie_together(joint, copies)
        for copy in copies:
            if there or _join(tape, copy):
                left_out[copy.segment].add(copy.position)
    for copy in tape.copies:
        if not copy.joins and (_is_never_read(copy.target.storage) or _share(tape, copy)):
            left_out[copy.segment].add(copy.position)
    _write_over_operands(tape)
    return left_out


def _is_never_read(storage: Storage) -> bool:
    return not storage.crosses and not storage.external and all(use.writes for use in storage.uses)


def _join(tape: Tape, copy: Copy) -> bool:
    """Lets the source be written where the concatenation has it; whether that can be."""
    source, target = copy.source, copy.target
    part, joint = source.storage, target.storage
    if not source.is_whole or part.alias is not None or not part.may_move() or part is joint.root()[0]:
        return False
    if part.segment != joint.segment or not _same_order(part.stride, target.stride, part.shape):
        return False
    offset = target.offset * target.dtype.itemsize
    if not _keeps_alignment(tape, part, offset, joint.placed_stride() or target.stride):
        return False
    part.alias = (joint, offset, target.stride)
    return True


def _lie_together(joint: Storage, copies: list[Copy]) -> bool:
    """Makes a concatenation a piece of a larger one, where its parts already lie in that as it wants them: DenseNet's
    growing list of features. Whether that is so."""
    first = copies[0].source.storage
    root, begin = first.root()
    stride = first.placed_stride()
    if root is first or root is joint or stride is None or not joint.may_move() or joint.segment != root.segment:
        return False
    if joint.stride[1] != stride[1] or not _same_order(joint.stride, stride, joint.shape):
        return False
    begin -= copies[0].target.offset * joint.dtype.itemsize
    if begin < 0:
        return False
    for copy in copies:
        part = copy.source.storage
        where, at = part.root()
        wanted = begin + copy.target.offset * joint.dtype.itemsize
        if not copy.source.is_whole or where is not root or at != wanted or part.placed_stride() != stride:
            return False
    joint.alias = (root, begin, stride)
    return True


def _share(tape: Tape, copy: Copy) -> bool:
    """Lets readers of a copy read the source as it lies; whether they can."""
    source, made = copy.source, copy.target.storage
    base = source.storage
    if made.alias is not None or not made.may_move() or source.dtype is not made.dtype:
        return False
    if sum(use.writes for use in made.uses) != 1 or len(source.shape) != 4:
        return False
    if not _same_order(made.stride, source.stride, made.shape):
        return False
    if base.alias is not None or (base.segment != made.segment and not base.external):
        return False
    offset = source.offset * source.dtype.itemsize
    if not _keeps_alignment(tape, made, offset + (base.address % _WIDEST if base.external else 0), source.stride):
        return False
    base.uses.extend(use for use in made.uses if not use.writes)
    # The strides are those of the storage as recorded: it stays where it is from now on.
    base.uses.append(Access(made.segment, made.uses[0].step, writes=False, movable=False))
    made.alias = (base, offset, source.stride)
    return True


def _keeps_alignment(tape: Tape, storage: Storage, offset: int, stride: tuple[int, ...]) -> bool:
    """Whether a storage can be read there in pieces as wide as now. A GPU's algorithms are chosen by that."""
    if tape.target.on_host:
        return True

    def widest(offset: int, stride: tuple[int, ...]) -> int:
        steps = [step for size, step in zip(storage.shape, stride, strict=True) if size > 1 and step > 1]
        return math.gcd(_WIDEST, offset, *(step * storage.dtype.itemsize for step in steps))

    return widest(offset, stride) >= widest(0, storage.stride)


def _same_order(a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether channels are the fastest dimension in both or in neither, so that a call keeps its way through memory."""
    if shape[1] == 1:
        return True
    return (a[1] == 1) == (b[1] == 1)


def _write_over_operands(tape: Tape) -> None:
    """An elementwise call may write where it reads, if nobody reads that afterwards."""
    last: dict[int, int] = {}
    for storage in tape.storages:
        root, _ = storage.root()
        steps = [use.step for use in storage.uses]
        last[root.index] = max([last.get(root.index, 0), *steps])
    shared = {storage.root()[0].index for storage in tape.storages if storage.alias is not None}
    for number, segment in enumerate(tape.segments):
        for call in segment.calls:
            if call.op not in _ELEMENTWISE or len(call.written) != 1 or not call.movable:
                continue
            made, read, step = call.written[0], call.read, call.step
            if made.alias is not None or made.crosses or made.index in shared:
                continue
            for operand in read:
                fits = operand.shape == made.shape and operand.stride == made.stride and operand.dtype is made.dtype
                free = not operand.external and not operand.crosses and operand.alias is None
                free = free and operand.index not in shared and operand.segment == number
                # Another view of it, such as one row broadcast, is read later than what is written over it.
                whole = all(use.movable for storage, use in call.uses if storage is operand)
                if not fits or not free or not whole or last[operand.index] != step:
                    continue
                made.alias = (operand, 0, None)
                last[operand.index] = last[made.index]
                shared.add(operand.index)
                break


def layout(tape: Tape, segment: int) -> tuple[dict[int, int], int]:
    """Offsets of the storages that live in the arena of a segment, and its size."""
    spans: dict[int, tuple[int, int]] = {}
    roots: dict[int, Storage] = {}
    for storage in tape.storages:
        root, _ = storage.root()
        if root.external or root.crosses or root.segment != segment:
            continue
        steps = [use.step for use in storage.uses]
        if not steps:
            continue
        first, last = spans.get(root.index, (steps[0], steps[0]))
        spans[root.index] = (min(first, *steps), max(last, *steps))
        roots[root.index] = root
    order = list(spans)
    grain = 1 if tape.target.on_host else ALIGNMENT
    sizes = [-(-roots[index].bytes // grain) * grain for index in order]
    offsets, total = _C.place_blocks([(size, *spans[index]) for size, index in zip(sizes, order, strict=True)])
    return dict(zip(order, offsets, strict=True)), total
