"""What a converted network holds in memory beside the model's own tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from fastconv.convert.region import Region

_MIB = float(1 << 20)


@dataclass(frozen=True)
class NetworkMemory:
    """Bytes: weights in the kernels' order; weights folded or cast for the step-by-step way, which a plan lets go of;
    activations and scratch of the arenas that wait for a call, and what CUDA graphs hold of a GPU. `plans` counts the
    shapes that have one."""

    packed: int
    folded: int
    arenas: int
    plans: int

    @property
    def total(self) -> int:
        return self.packed + self.folded + self.arenas

    def __str__(self) -> str:
        parts = (("packed weights", self.packed), ("folded weights", self.folded), ("arenas", self.arenas))
        sizes = ", ".join(f"{name} {size / _MIB:.1f} MiB" for name, size in parts)
        return f"{sizes}, plans for {self.plans} shapes"


def memory_of(region: Region) -> NetworkMemory:
    """The memory of a region and of those inside it."""
    packs: dict[int, int] = {}
    folded: dict[int, int] = {}
    arenas = plans = shared = 0  # shared: the arena of the network's graphs
    for part in _regions(region):
        for prepared in part.store.all_prepared():
            packs.update((_where(t), t.untyped_storage().nbytes()) for t in prepared.packs())
            folded.update((_where(t), t.untyped_storage().nbytes()) for t in prepared.own_tensors())
        arenas += part.store.arenas.bytes
        plans += sum(program.plan_count for program in part.programs())
        for own, arena in (program.graph_bytes for program in part.programs()):
            arenas, shared = arenas + own, max(shared, arena)
    return NetworkMemory(sum(packs.values()), sum(folded.values()), arenas + shared, plans)


def _regions(region: Region) -> list[Region]:
    return [region, *(inner for child in region.children.values() for inner in _regions(child))]


def _where(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
