"""Leaves out filters and channels that the values of the weights make superfluous: what pruning set to zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from fastconv.convert import ir
from fastconv.convert.channels import Operation, decide
from fastconv.convert.ir import Context
from fastconv.convert.passes.channel_reading import ChannelReader
from fastconv.convert.prepared import Stale, slots_of
from fastconv.nn.fold import Slot, Sources


@dataclass(eq=False)
class Dropping:
    """What was decided for one graph, and what it was decided from."""

    operations: list[Operation]
    kept: list[ir.Kept | None]
    slots: tuple[Slot, ...]
    sources: Sources

    def __post_init__(self) -> None:
        self.drops_any = any(kept is not None for kept in self.kept)

    def check(self) -> None:
        """For weights that changed.

        Raises:
            Stale: other channels are superfluous now, or hold other numbers.
        """
        if self.sources.unchanged():
            return
        sources = Sources(self.slots)
        try:
            now = _decide(self.operations)
        except (KeyError, RuntimeError, ValueError) as error:  # a weight is gone, or has another shape
            raise Stale(f"a weight is not what it was: {error}") from error
        if now != self.kept:
            raise Stale("other channels are superfluous now")
        self.sources = sources


def drop_channels(graph: fx.Graph, context: Context) -> Dropping | None:
    """Narrows the specs of the graph; None where a weight has no values to judge by.

    Dropped is what is exactly zero: filters, and all weights for an input channel. Their neighbours follow: channels
    that then nobody reads, and the filters that made them. What torch computes between two layers has to work on each
    channel by itself for that (activations, pooling, sums, products, concatenation, flattening); the outputs of the
    graph, and whatever else reads a value, get all of its channels. A grouped convolution loses whole groups.
    """
    reader = ChannelReader(graph, context)
    if not reader.readable:
        return None
    specs = [op.spec for op in reader.operations if getattr(op, "spec", None) is not None]  # type: ignore[attr-defined]
    slots = tuple(slot for spec in specs for slot in slots_of(spec))
    sources = Sources(slots)
    kept = _decide(reader.operations)
    for node, position in reader.positions.items():
        narrowed = kept[position]
        if narrowed is not None and node in reader.norms:
            ir.put(node, _narrow(reader.norms[node], narrowed), *ir.inputs_of(node))
        elif narrowed is not None:
            node.meta["spec"] = _narrow(node.meta["spec"], narrowed)
    return Dropping(reader.operations, kept, slots, sources)


def _decide(operations: list[Operation]) -> list[ir.Kept | None]:
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        return decide(operations)


def _narrow(spec: Any, kept: ir.Kept) -> Any:
    groups = getattr(spec, "groups", 1)
    if groups == 1:
        return replace(spec, kept=kept)
    return replace(spec, kept=kept, groups=groups * len(kept.filters) // kept.of_filters)
