"""Several tensors of one shape as few axes, sorted and merged, so that kernels need no more than four."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

MOST_AXES = 4
Strides = list[tuple[int, ...]]


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], Strides]:
    """The same elements with axes in the first tensor's memory order, and neighbours joined where all tensors allow.

    Axes of one element go; the result has at least one.
    """
    order = sorted(range(len(shape)), key=lambda axis: -strides[0][axis])
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis in order:
        if shape[axis] == 1:
            continue
        if sizes and all(have[-1] == own[axis] * shape[axis] for have, own in zip(steps, strides, strict=True)):
            sizes[-1] *= shape[axis]
            for have, own in zip(steps, strides, strict=True):
                have[-1] = own[axis]
            continue
        sizes.append(shape[axis])
        for have, own in zip(steps, strides, strict=True):
            have.append(own[axis])
    if not sizes:
        return (1,), [(0,) for _ in strides]
    return tuple(sizes), [tuple(have) for have in steps]


def padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """`values` behind as many `fill`s as make four."""
    return (fill,) * (MOST_AXES - len(values)) + tuple(values)


def merged_tensors(*tensors: Tensor) -> tuple[tuple[int, ...], Strides] | None:
    """`merged` of tensors of one shape, or None where more than four axes remain."""
    sizes, steps = merged(tensors[0].shape, [t.stride() for t in tensors])
    return (sizes, steps) if len(sizes) <= MOST_AXES else None
