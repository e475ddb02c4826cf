"""Where a GPU's plan cannot be a graph: it runs segment by segment, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planning import assert_equal, build, plan_of, step_by_step
from stand_in import StandIn
from test_fallbacks import Between
from torch import Tensor, fx, nn

import fastconv
from fastconv.convert.plan import graphed

pytestmark = [
    pytest.mark.usefixtures("graphs"),
    pytest.mark.skipif(
        fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
    ),
]
SHAPE = (2, 3, 10, 10)
TOO_SMALL = graphed._too_small  # before the fixture lets small networks have graphs


def why_not(converted: nn.Module) -> str | None:
    graph = plan_of(converted).graph
    assert graph is not None
    assert not graph.is_captured
    return graph.why


@fx.wrap
def doubled(x: Tensor) -> Tensor:
    return x * 2


UNCAPTURABLE: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "as many as a mask has": (
        lambda m, x: m.c(x)[m.d(x) > 0].sum().view(1, 1, 1, 1) + m.c(x), "index makes a tensor whose extents depend",
    ),
    "places of what is not zero": (lambda m, x: m.c(x) + m.d(x).nonzero().sum(), "nonzero makes a tensor whose"),
    "a mask's places are written": (
        lambda m, x: m.d(torch.index_put(m.c(x), (m.c(x) > 0,), torch.zeros(1))), "index_put asks the GPU how many",
    ),
    "the inverse of a matrix": (lambda m, x: m.d(torch.linalg.inv(m.c(x))), "linalg_inv_ex waits for the GPU"),
    "singular values": (lambda m, x: m.d(m.c(x)) + torch.linalg.svdvals(m.c(x)).sum(), "_linalg_svd waits for the GPU"),
    "a histogram between extremes": (lambda m, x: m.d(m.c(x)) + torch.histc(m.c(x), 8), "histc waits for the GPU"),
    "a value": (lambda m, x: m.c(x) * torch.cumsum(m.d(x), 1).max().item(), "_local_scalar_dense gives a value"),
    "random numbers": (lambda m, x: m.d(F.dropout(m.c(x), 0.5, True)), "draws random numbers"),
    "another view of the input": (
        lambda m, x: m.d(m.c(x)) + x.as_strided((1, 4, 8, 8), (0, 1, 8, 8)), "as_strided may read beside the input",
    ),
    "a function of the model's own": (lambda m, x: m.d(doubled(m.c(x))), "doubled is a function of the model's own"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCAPTURABLE)
def test_what_cannot_be_captured_runs_segment_by_segment(what: str, graphs: list[StandIn]) -> None:
    forward, reason = UNCAPTURABLE[what]
    model = Between(forward).eval()
    converted, steps = fastconv.convert(model), step_by_step(model)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(1, 4, 8, 8)
        torch.manual_seed(seed + 10)
        ours = converted(x)
        torch.manual_seed(seed + 10)
        assert_equal(ours, steps(x))  # looking for what cannot be captured has drawn no random number
    assert reason in str(why_not(converted))
    assert f"no CUDA graph: {why_not(converted)}" in str(fastconv.explain(converted))
    assert not graphs[0].graphs


CAPTURABLE: dict[str, Callable[[Any, Tensor], Any]] = {
    "places": lambda m, x: m.d(m.c(x)[:, m.order]),
    "places that are written": lambda m, x: m.d(torch.index_put(m.c(x), (m.order[:1] * 0,), torch.zeros(1))),
    "a norm": lambda m, x: m.d(m.c(x)) + torch.linalg.vector_norm(m.c(x)),
    "a mask that is filled": lambda m, x: m.d(m.c(x).masked_fill(m.c(x) > 0, 2.0)),
}


@pytest.mark.parametrize("what", CAPTURABLE)
def test_what_launches_kernels_only_is_captured(what: str, graphs: list[StandIn]) -> None:
    model = Between(CAPTURABLE[what]).eval()
    converted, steps = fastconv.convert(model), step_by_step(model)
    for _ in range(3):
        x = torch.randn(1, 4, 8, 8)
        assert_equal(converted(x), steps(x))
    assert len(graphs[0].graphs) == 1


def test_a_number_of_the_gpus_is_waited_for_where_torch_needs_it() -> None:
    """meta stands for the GPU: on the emulated one every tensor is the host's."""
    x, mask = torch.empty(3, device="meta"), torch.empty(3, device="meta", dtype=torch.bool)
    for number, why in ((2.0, None), (torch.empty((), device="meta"), "masked_fill waits for the GPU")):
        with graphed._Watching() as watching:
            x.masked_fill(mask, number)
        assert watching.reason == why


def test_a_capture_under_way_and_one_that_fails(graphs: list[StandIn]) -> None:
    model = build("inception")
    converted, steps = fastconv.convert(model), step_by_step(model)
    x = torch.randn(SHAPE)
    converted(x)
    graphs[0].why_busy = "a capture is under way"
    assert_equal(converted(x), steps(x))
    assert not graphs[0].graphs
    graphs[0].why_busy = None
    graphs[0].error = RuntimeError("operation not permitted when stream is capturing")
    assert_equal(converted(x), steps(x))
    assert why_not(converted) == "RuntimeError: operation not permitted when stream is capturing"
    graphs[0].error = None
    assert_equal(converted(x), steps(x))
    assert not graphs[0].graphs  # what failed once is not tried at every call


def test_a_plan_of_few_launches_has_no_graph(monkeypatch: pytest.MonkeyPatch, graphs: list[StandIn]) -> None:
    monkeypatch.setattr(graphed, "_too_small", TOO_SMALL)
    x = torch.randn(SHAPE)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)]  # and the way back to torch's layout
    three, four = (fastconv.convert(nn.Sequential(*layers[:count]).eval(), x) for count in (2, 3))
    assert plan_of(three).kernel_count == 3
    assert why_not(three) == "3 launches are no more than a replay has: 2 copies and the graph's"
    graph = plan_of(four).graph
    assert graph is not None
    assert graph.is_captured


def test_the_switch(monkeypatch: pytest.MonkeyPatch, graphs: list[StandIn]) -> None:
    monkeypatch.setenv("FASTCONV_CUDA_GRAPH", "0")
    converted = fastconv.convert(build("inception"), torch.randn(SHAPE))
    assert why_not(converted) == "FASTCONV_CUDA_GRAPH=0"
    assert not graphs[0].graphs


def test_gradients_autocast_and_recording_go_past_the_graph(graphs: list[StandIn]) -> None:
    model = build("inception")
    converted = fastconv.convert(model, torch.randn(SHAPE))
    replays = graphs[0].graphs[0].replays
    x = torch.randn(SHAPE, requires_grad=True)
    with torch.enable_grad():
        converted(x).sum().backward()
    assert x.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        converted(torch.randn(SHAPE))
    assert graphs[0].graphs[0].replays == replays
