"""Chains of layers that one kernel computes without the tensors between them (csrc/plan/fusion.cpp)."""

from __future__ import annotations

from fastconv.convert.plan.tape import Call, Segment, Tape
from fastconv.convert.plan.values import Storage


def fuse(tape: Tape) -> int:
    """Puts one call in the place of each chain that a block serves better; how many."""
    count = 0
    for number, segment in enumerate(tape.segments):
        makers = {storage.index: call for call in segment.calls for storage in call.written}
        for last in list(segment.calls):
            chain = _chain_to(last, makers, number)
            for length in (3, 2):
                if len(chain) >= length and last in segment.calls and _fuse(tape, segment, chain[-length:]):
                    count += 1
                    break
    return count


def _chain_to(last: Call, makers: dict[int, Call], segment: int) -> list[Call]:
    """The calls whose only purpose is the next one's input, `last` at the end."""
    chain = [last]
    while len(chain) < 3 and chain[0].op in ("conv2d", "max_pool2d") and chain[0].read:
        read = chain[0].read[0]
        maker = makers.get(read.index)
        if maker is None or maker.op != "conv2d" or not _is_private(read, segment):
            break
        chain.insert(0, maker)
    return chain


def _is_private(storage: Storage, segment: int) -> bool:
    """Whether one call writes it and one reads it, all of it."""
    return (
        not storage.external
        and not storage.crosses
        and storage.segment == segment
        and sorted(use.writes for use in storage.uses) == [False, True]
        and all(use.movable for use in storage.uses)
    )


def _fuse(tape: Tape, segment: Segment, chain: list[Call]) -> bool:
    if any(call not in segment.calls for call in chain):
        return False
    noted = segment.recorder.fuse([call.position for call in chain])
    if noted is None:
        return False
    last = chain[-1]
    nodes = tuple(node for call in chain for node in call.nodes)
    for call in chain:
        tape.remove(segment, call)
    tape.add(segment, noted, last.position, last.step, nodes)
    return True
