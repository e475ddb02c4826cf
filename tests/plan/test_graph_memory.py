"""What graphs hold and for how long, and which streams may use it; with a stand-in for the GPU's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from planning import build, plan_of
from stand_in import StandIn
from torch import Tensor, nn

import fastconv
from fastconv.convert import lower
from fastconv.convert.plan import cache, graphed

pytestmark = [
    pytest.mark.usefixtures("graphs"),
    pytest.mark.skipif(
        fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
    ),
]
SHAPE = (2, 3, 10, 10)


class MadeOnce:
    """Stands in for what orders the streams of a GPU: what each call says that it is about to read."""

    def __init__(self) -> None:
        self.reads: list[list[Tensor]] = []

    def read(self, tensors: Callable[[], list[Tensor]]) -> None:
        self.reads.append(list(tensors()))


def test_streams_are_ordered_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[MadeOnce] = []
    plans: list[MadeOnce] = []
    for module, made in ((lower, weights), (graphed, plans)):
        monkeypatch.setattr(module, "made_here", lambda _, made=made: [made.append(MadeOnce()) or made[-1]])
    model = build("mobile")
    converted = fastconv.convert(model)
    x = torch.randn(SHAPE)
    for count in (1, 2):
        for _ in range(3):
            converted(x)
        assert len(weights) == len(plans) == count
        assert len(weights[-1].reads) == 3
        assert len(plans[-1].reads) == 2  # the first call makes the plan
        folded = {t.data_ptr() for t in converted.region.store.all_prepared()[0].own_tensors()}
        for reads in (*weights[-1].reads, *plans[-1].reads):
            assert folded
            assert folded <= {t.data_ptr() for t in reads}
        model.stem[0].weight.mul_(2)


def test_graphs_go_with_their_plans_and_with_the_network(
    monkeypatch: pytest.MonkeyPatch, graphs: list[StandIn]
) -> None:
    monkeypatch.setattr(cache, "MAX_PLANS", 2)
    converted = fastconv.convert(build("inception"))
    for size in (8, 9, 10):
        for _ in range(2):
            converted(torch.randn(1, 3, size, size))
    found = [weakref.ref(graph) for graph in graphs[0].graphs]
    graphs[0].graphs.clear()
    gc.collect()
    assert [graph() is not None for graph in found] == [False, True, True]
    del converted
    gc.collect()
    assert all(graph() is None for graph in found)


class InParts(nn.Module):
    """A branch on values: what is in it is captured part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1))
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x)) if x.abs().max() < 1e9 else x
        return y


def test_parts_of_a_network_share_their_memory(graphs: list[StandIn]) -> None:
    converted = fastconv.convert(InParts().eval())
    for _ in range(3):
        converted(torch.randn(SHAPE))
    assert [len(part.graphs) for part in graphs] == [2]
    plans = {path: plan_of(SimpleNamespace(region=part)) for path, part in converted.region.children.items()}
    said = str(fastconv.explain(converted))
    for path in "ab":
        assert f"{path}: plan: {plans[path].kernel_count} kernel calls in 1 segment" in said
        assert f"{path}: CUDA graph of {plans[path].kernel_count} kernels" in said
    own = sum(plan.graph.bytes for plan in plans.values() if plan.graph is not None)
    assert converted.memory().arenas == own + max(plan.arena_bytes for plan in plans.values())


def test_memory_counts_what_graphs_hold() -> None:
    x = torch.randn(2, 3, 16, 16)
    converted = fastconv.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).eval())
    converted(x)
    assert converted.memory().arenas == 0  # torch's allocator has it between calls
    y = converted(x)
    assert converted.memory().arenas == x.nbytes + y.nbytes + plan_of(converted).arena_bytes
