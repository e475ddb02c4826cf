"""Strides and upsampling factors taken apart into unit problems: which pixels, which taps, which offsets.

A phase along one axis covers the outputs first, first + step, ... and is a sum over few taps with whole input
coordinates. Output and filter of a phase are slices of the whole: strided views, no copies.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Phase(NamedTuple):
    """Output first + step * i reads input i * mul + off + j * tap with filter tap tap_first + j * tap_step."""

    first: int
    step: int
    tap_first: int
    tap_step: int
    mul: int
    off: int
    tap: int

    def covers(self, extent: int) -> int:
        """How many outputs of `extent` the phase has."""
        return max(0, -(-(extent - self.first) // self.step))


def transposed(extent: int, taps: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """The phases, along one axis of `extent`, of the input gradient of a convolution: those that any tap reaches.

    Tap r of dy's pixel p lies at h = p * stride - padding + r * dilation, so h's phase fixes r modulo `every`. Counted
    by taps and not by residues: a stride of millions has no more phases than the filter has taps.
    """
    common = math.gcd(stride, dilation)
    every, leap = stride // common, dilation // common
    found = []
    for r in range(min(every, taps)):
        first = (r * dilation - padding) % stride
        if first < extent:
            found.append(Phase(first, stride, r, every, 1, (first + padding - r * dilation) // stride, -leap))
    return found


def are_complete(phases: list[Phase], extent: int) -> bool:
    """Whether every output of `extent` belongs to a phase; the others are sums of nothing."""
    return sum(phase.covers(extent) for phase in phases) == extent


class SummedPhase(NamedTuple):
    """Output first + step * i reads input i * mul + off + j with the sum of the taps r that have
    (low + r * dilation) // factor = j, for j < taps."""

    first: int
    step: int
    mul: int
    off: int
    low: int
    taps: int


def upsampled_period(factor: int, stride: int) -> int:
    """After how many outputs the pattern of an upsampled convolution repeats."""
    return factor // math.gcd(factor, stride)


def upsampled(extent: int, taps: int, factor: int, stride: int, padding: int, dilation: int) -> list[SummedPhase]:
    """The phases of nearest upsampling followed by a convolution, along one output axis of `extent`."""
    period = upsampled_period(factor, stride)
    found = []
    for first in range(min(period, extent)):
        off, low = divmod(first * stride - padding, factor)
        reached = (low + (taps - 1) * dilation) // factor + 1
        found.append(SummedPhase(first, period, period * stride // factor, off, low, reached))
    return found
