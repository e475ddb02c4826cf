"""Which channels of a network can be left out, judged by the values of its weights.

Two things make a channel superfluous. Its filter is zero, so that it holds one known number everywhere: a zero adds
nothing to any sum, and what another number adds is moved into the bias of the convolution that reads it. Where padding
stands beside it that would be wrong at the border; one such channel is kept then, and since all of them are multiples
of it, its weights take over theirs. Or nothing reads it: the weights for it are zero in every reader. A channel stays
where any reader wants it.

What must have the same channels (the summands of an addition, both sides of a depthwise convolution or of a group)
shares one number in `_Classes`, and is kept or dropped together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastconv.convert import ir, steps
from fastconv.nn.fold import fold_norms
from fastconv.nn.weights import Activation, Weight

Numbers = NDArray[np.float64]  # for each channel the number that it holds everywhere, NaN where it varies
Flags = NDArray[np.bool_]
Members = NDArray[np.int64]  # for each channel its class


@dataclass(frozen=True)
class Operation:
    """One operation as far as its channels go; `inputs` are positions in the list of operations.

    `channels` is None for a value that is not followed: what it reads is then wanted whole.
    """

    channels: int | None
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer(Operation):
    """Convolution, transposed convolution or linear; a second input is the residual.

    `fan_in` channels are read; `spread` features of a linear layer come from each of them (a flattened image).
    """

    spec: ir.Conv | ir.ConvTranspose | ir.Linear = field(kw_only=True)
    fan_in: int = field(kw_only=True)
    spread: int = field(default=1, kw_only=True)

    @property
    def groups(self) -> int:
        return 1 if isinstance(self.spec, ir.Linear) else self.spec.groups

    @property
    def takes_numbers(self) -> bool:
        """Whether an input channel that is one number everywhere adds the same to every output pixel."""
        return isinstance(self.spec, ir.Linear) or (isinstance(self.spec, ir.Conv) and not any(self.spec.padding))


@dataclass(frozen=True)
class Carry(Operation):
    """Works on each channel by itself; `number` says what becomes of channels that are one number everywhere."""

    number: Callable[..., Numbers] = field(kw_only=True)
    spec: ir.Act | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Join(Operation):
    """A concatenation along the channels."""


class _Classes:
    """Union-find over channels: those of one class are kept or dropped together."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def fresh(self, count: int) -> Members:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, member: int) -> int:
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def unite(self, first: Members, second: Members) -> None:
        for a, b in zip(first, second, strict=True):
            self._parent[self.find(int(b))] = self.find(int(a))

    def roots(self, members: Members) -> Members:
        return np.array([self.find(int(member)) for member in members], dtype=np.int64)


class _Weights:
    """What the values of a layer's weights say: (groups, filters of a group, channels of a group)."""

    def __init__(self, layer: Layer) -> None:
        spec, g = layer.spec, layer.groups
        weight = spec.weight.read().detach()
        given: Tensor | None = None if spec.bias is None else spec.bias.read()  # None too once it was taken away
        bias = None if given is None else given.detach().cpu().double()
        if isinstance(spec, ir.ConvTranspose):
            c, k = weight.shape[:2]
            blocks = weight.reshape(g, c // g, k, -1).transpose(1, 2)
        elif isinstance(spec, ir.Linear):
            blocks = weight.reshape(1, weight.shape[0], -1, layer.spread)
        else:
            blocks = weight.reshape(g, weight.shape[0] // g, weight.shape[1], -1)
        filters = blocks.shape[0] * blocks.shape[1]
        scale = torch.ones(filters, dtype=torch.float64)
        shift = torch.zeros_like(scale) if bias is None else bias
        norms = () if isinstance(spec, ir.Linear) else spec.norms
        if norms:
            ones, read = torch.ones(filters, 1, dtype=torch.float64), [norm.read() for norm in norms]
            folded, folded_shift = fold_norms(ones.to(weight.device), shift.to(weight.device), read)
            scale, shift = folded.flatten().cpu(), folded_shift.cpu()
        self._blocks, self._scale = blocks, scale.view(g, -1)
        self.shift: Numbers = shift.numpy()
        # A scale that is no number makes zeros NaN: such a filter is not zero.
        # NumPy: torch reduces so short rows a hundred times slower
        values = (blocks if blocks.dtype is torch.float64 else blocks.float()).cpu().numpy()
        nonzero: Any = np.ones(values.shape[:3], dtype=bool) if values.all() else values.any(-1)
        finite = torch.isfinite(self._scale)[..., None].numpy()
        self.nonzero: Flags = (nonzero & (self._scale != 0)[..., None].numpy()) | ~finite

    def sums(self, numbers: Numbers) -> Numbers:
        """What input channels that are these numbers everywhere add to each output channel."""
        columns = torch.from_numpy(numbers).view(self._blocks.shape[0], 1, -1)
        used = columns.flatten().nonzero().flatten()
        if not used.numel():
            return np.zeros(self._scale.numel())
        totals = self._blocks.sum(-1, dtype=torch.float64).cpu()
        return ((totals * columns).sum(-1) * self._scale).flatten().numpy()


def decide(operations: Sequence[Operation]) -> list[ir.Kept | None]:
    """For each operation with weights what is kept of them, None where that is everything."""
    weights = {i: _Weights(op) for i, op in enumerate(operations) if isinstance(op, Layer)}
    if all(own.nonzero.any(2).all() and own.nonzero.any(1).all() for own in weights.values()):
        return [None] * len(operations)  # the usual network: no filter and no channel of one is zero
    numbers = _constants(operations, weights)
    members = _couple(operations)
    needed = np.zeros(1 + max((int(own.max()) for own in members if own is not None), default=-1), dtype=bool)
    for op, own in zip(operations, members, strict=True):
        sources = [members[i] for i in op.inputs]
        if own is None:
            for source in filter(lambda source: source is not None, sources):
                needed[source] = True
        elif isinstance(op, Layer) and any(source is None for source in sources[1 if op.groups == 1 else 0 :]):
            needed[own] = True  # a summand, or the groups' input, whose channels are not followed
    _spread_needs(operations, weights, numbers, members, needed)
    return [_kept(i, operations, members, needed, numbers) for i in range(len(operations))]


def _kept(
    index: int, operations: Sequence[Operation], members: list[Members | None], needed: Flags, numbers: list[Numbers]
) -> ir.Kept | None:
    op, own = operations[index], members[index]
    sloped = isinstance(op, Carry) and op.spec is not None and isinstance(op.spec.act.param, Weight)
    if own is None or not (isinstance(op, Layer) or sloped):
        return None
    filters = channels = needed[own]
    source = members[op.inputs[0]]
    if isinstance(op, Layer):
        channels = np.ones(op.fan_in, dtype=bool) if source is None else needed[source]
    if filters.all() and channels.all():
        return None
    moved: tuple[tuple[int, float], ...] = ()
    carrier = None
    if isinstance(op, Layer) and op.groups == 1 and source is not None:
        given = np.nan_to_num(numbers[op.inputs[0]])
        dropped = np.flatnonzero(~channels & (given != 0))
        if len(dropped) and not op.takes_numbers:
            carrier = int(np.argmax(np.abs(given) * channels))
            given = given / given[carrier] if given[carrier] else given * 0  # no weight is there for them
        moved = tuple((int(c), float(given[c])) for c in dropped)
    indices = [tuple(map(int, np.flatnonzero(flags))) for flags in (filters, channels)]
    return ir.Kept(indices[0], indices[1], len(filters), len(channels), moved, carrier)


def _constants(operations: Sequence[Operation], weights: dict[int, _Weights]) -> list[Numbers]:
    """What each channel is everywhere."""
    numbers: list[Numbers] = []
    for i, op in enumerate(operations):
        made = np.full(op.channels or 0, np.nan)
        inputs = [numbers[j] for j in op.inputs]
        if isinstance(op, Layer):
            made = _layer_numbers(op, weights[i], inputs)
        elif isinstance(op, Carry):
            with np.errstate(all="ignore"):  # what is no number varies
                made = op.number(*inputs)
        elif isinstance(op, Join):
            made = np.concatenate(inputs)
        numbers.append(np.where(np.isfinite(made), made, np.nan))
    return numbers


def _layer_numbers(layer: Layer, weights: _Weights, inputs: list[Numbers]) -> Numbers:
    groups, filters, channels = weights.nonzero.shape
    given = inputs[0] if inputs[0].size else np.full(groups * channels, np.nan)
    known = np.isfinite(given) if layer.takes_numbers else given == 0
    fixed = ~(weights.nonzero & ~known.reshape(groups, 1, channels)).any(2).flatten()
    made = np.full(groups * filters, np.nan)
    if not fixed.any():
        return made
    value = weights.shift + (weights.sums(np.where(known, given, 0.0)) if layer.takes_numbers else 0.0)
    if len(inputs) > 1:
        value = value + (inputs[1] if inputs[1].size else np.nan)
    act = layer.spec.act if not isinstance(layer.spec, ir.ConvTranspose) else ir.IDENTITY
    made[fixed] = activated(act, value)[fixed]
    return made


def activated(act: Activation, value: Numbers) -> Numbers:
    """The activation of channels that are one number everywhere."""
    alpha = act.argument()
    if isinstance(alpha, Tensor):
        alpha = alpha.detach().cpu().double()
        if alpha.dim() > 1:  # one slope for each position
            return np.where(value == 0, 0.0, np.nan)
    shaped = torch.from_numpy(np.ascontiguousarray(value)).view(1, -1, 1, 1)
    made: Numbers = steps.activate(shaped, act, alpha).flatten().numpy()
    return made


def _couple(operations: Sequence[Operation]) -> list[Members | None]:
    classes = _Classes()
    ids: list[Members | None] = []
    for op in operations:
        inputs = [ids[i] for i in op.inputs]
        own = None if op.channels is None else classes.fresh(op.channels)
        if own is None:
            pass
        elif isinstance(op, Join):
            own = np.concatenate([part for part in inputs if part is not None])
        elif isinstance(op, Carry):
            for part in inputs:
                classes.unite(own, part)  # type: ignore[arg-type]
        elif isinstance(op, Layer):
            if len(inputs) > 1 and inputs[1] is not None:
                classes.unite(own, inputs[1])
            if op.groups > 1 and inputs[0] is not None:
                _couple_groups(classes, own.reshape(op.groups, -1), inputs[0].reshape(op.groups, -1))
        ids.append(own)
    return [None if own is None else classes.roots(own) for own in ids]


def _couple_groups(classes: _Classes, outputs: Members, inputs: Members) -> None:
    """A group is dropped whole or not at all: groups of unequal size are no grouped convolution."""
    for group in np.concatenate([outputs, inputs], axis=1):
        classes.unite(np.full(len(group) - 1, group[0]), group[1:])


def _spread_needs(
    operations: Sequence[Operation],
    weights: dict[int, _Weights],
    numbers: list[Numbers],
    members: list[Members | None],
    needed: Flags,
) -> None:
    """From what is wanted to what that depends on, until nothing more is."""
    before = -1
    while before != (count := int(needed.sum())):
        before = count
        for i in reversed(range(len(operations))):
            op, own = operations[i], members[i]
            if own is None:
                continue
            if own.size and not needed[own].any():
                needed[own[0]] = True  # a tensor without channels is more than kernels take
            if not isinstance(op, Layer) or op.groups > 1 or (source := members[op.inputs[0]]) is None:
                continue
            read, given = weights[i].nonzero[0][needed[own]].any(0), numbers[op.inputs[0]]
            needed[source[read & np.isnan(given)]] = True
            if not op.takes_numbers and (fixed := read & np.isfinite(given) & (given != 0)).any():
                # The largest carries the others: their weights are scaled down to it.
                needed[source[np.argmax(np.where(fixed, np.abs(given), 0.0))]] = True
