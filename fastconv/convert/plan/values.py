"""What a plan knows of a tensor: which memory it is a view of, and where that memory comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

# As csrc/common/dtypes.h numbers them.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


@dataclass(eq=False)
class Storage:
    """Memory that one operation makes, or that comes from outside: an input, or the result of something left to
    torch. `index` is its name among the recorded calls."""

    index: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    address: int  # while the tensor of the planning run lives
    external: bool
    segment: int = -1  # that makes it
    crosses: bool = False  # read outside of the segment that makes it, or an output of the network
    # Uses by kernel calls; one that fixes the place or the strides keeps the storage where it is.
    uses: list[Access] = field(default_factory=list)
    # Part of another storage: (the other, offset in bytes, strides; None: as recorded).
    alias: tuple[Storage, int, tuple[int, ...] | None] | None = None

    @property
    def bytes(self) -> int:
        return span(self.shape, self.stride) * self.dtype.itemsize

    def root(self) -> tuple[Storage, int]:
        """The storage whose memory this is in the end, and the offset in it in bytes."""
        storage, offset = self, 0
        while storage.alias is not None:
            storage, more, _ = storage.alias
            offset += more
        return storage, offset

    def placed_stride(self) -> tuple[int, ...] | None:
        """The strides it has where it lies in the end; None: those it was recorded with."""
        if self.alias is None:
            return None
        whole, _, stride = self.alias
        return whole.placed_stride() or stride  # a part of what itself is a part has the strides of the whole

    def may_move(self) -> bool:
        """Whether every call that touches it can do so at another place with other strides."""
        return not self.external and not self.crosses and len(self.shape) == 4 and all(u.movable for u in self.uses)


@dataclass(frozen=True)
class Access:
    """One use of a storage by a kernel call, at a place in the order of all calls."""

    segment: int
    step: int
    writes: bool
    movable: bool


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph: a view of a storage. `offset` in elements."""

    storage: Storage
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def is_whole(self) -> bool:
        """Whether the view is the tensor that the storage was made as."""
        return self.offset == 0 and self.shape == self.storage.shape and self.stride == self.storage.stride


@dataclass(frozen=True)
class Late:
    """A value of the planning run that is known only when the network runs: what no kernel of ours made, and is no
    tensor whose extents follow from the inputs'."""

    node: fx.Node


def is_memory(x: Any) -> bool:
    """Whether x is a tensor whose values lie in memory by its strides, as they are."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and (x.is_cpu or x.is_cuda)
        and x.layout is torch.strided
        and not x.is_neg()
        and not x.is_conj()
    )


def leaves_of(arguments: Any) -> list[Any]:
    """What is in a node's arguments, bounds of slices included, which pytree takes for leaves."""
    found: list[Any] = []
    fx.node.map_aggregate(arguments, found.append)
    return found


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last one of a view."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def four(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]] | None:
    """Views of one shape in four dimensions; None where they have more that do not merge in all of them."""
    axes = list(zip(shape, *strides, strict=True))
    if len(shape) > 4:
        merged: list[tuple[int, ...]] = []
        for axis in axes:
            if axis[0] == 1:
                continue
            if merged and all(outer == axis[0] * inner for outer, inner in zip(merged[-1][1:], axis[1:], strict=True)):
                axis = (merged.pop()[0] * axis[0], *axis[1:])
            merged.append(axis)
        axes = merged
    if len(axes) > 4:
        return None
    axes = [(1, *[0] * len(strides))] * (4 - len(axes)) + axes
    sizes, *steps = (list(column) for column in zip(*axes, strict=True))
    return sizes, steps


def same_view(sizes: Any, strides: Any, shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether a call walks exactly the tensor of this shape and these strides; extents of 1 leave theirs open."""
    return tuple(sizes) == shape and all(size == 1 or a == b for size, a, b in zip(shape, strides, stride, strict=True))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for dim in range(len(shape) - 1, -1, -1):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def is_walkable(x: Tensor) -> bool:
    """Whether kernels take the tensor as it lies: without gaps, in torch's order or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
