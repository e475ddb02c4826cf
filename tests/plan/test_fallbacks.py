"""What a plan cannot hold is left to torch; what turns out otherwise goes step by step. No call fails or differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planning import MobileBlock, build, leaves, plan_of
from torch import Tensor, nn

import fastconv
from fastconv.convert.plan.planner import Planner

SHAPE = (1, 4, 8, 8)


class Between(nn.Module):
    """Something between and after two convolutions."""

    def __init__(self, what: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.what = what

    def forward(self, x: Tensor) -> Any:
        return self.what(self, x)


def assert_follows(model: nn.Module, converted: nn.Module, *shape: int) -> None:
    """Five calls on other values each."""
    with torch.no_grad():
        for seed in range(5):
            torch.manual_seed(seed)
            x = torch.randn(shape or SHAPE)
            torch.manual_seed(7)
            ours = converted(x)
            torch.manual_seed(7)
            for y, z in zip(leaves(ours), leaves(model(x)), strict=True):
                assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
                torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)


PICKED: dict[str, Callable[[Any, Tensor], Any]] = {
    "channels in another order": lambda m, x: m.d(m.c(x)[:, m.order]),
    "the same by a list": lambda m, x: m.d(m.c(x)[:, [2, 0, 3, 1]]),
    "more than there were": lambda m, x: m.c(x)[:, m.order.repeat(2)].flatten(1),
    "as many as a mask has": lambda m, x: m.c(x)[m.d(x) > 0].sum().view(1, 1, 1, 1) + m.c(x),
    "one that values choose": lambda m, x: m.c(x)[:, m.d(x).mean((0, 2, 3)).argmax()].unsqueeze(1) + m.d(x),
    "a part that values choose": lambda m, x: m.c(x).narrow(1, m.d(x).mean((0, 2, 3)).argmax(), 1) + m.d(x),
    "none": lambda m, x: m.c(x)[:, 4:].flatten(1),
}
NAMED: dict[str, Callable[[Any, Tensor], Any]] = {
    "cat axis": lambda m, x: m.d(torch.cat([m.c(x)[:, :2], m.d(x)[:, :2]], axis=1)),  # type: ignore[call-overload]
    "cat tensors": lambda m, x: m.d(torch.cat(tensors=[m.c(x)[:, :2], m.d(x)[:, :2]], dim=1)),
    "add": lambda m, x: m.d(torch.add(input=torch.sigmoid(m.c(x)), other=x)),
    "mul": lambda m, x: m.d(torch.mul(torch.sigmoid(m.c(x)), other=m.d(x))),
    "flatten": lambda m, x: torch.flatten(input=m.c(x), start_dim=1),
    "mean": lambda m, x: m.d(torch.mean(input=m.c(x), dim=(2, 3), keepdim=True)),
    "mean keepdims": lambda m, x: m.d(torch.mean(m.c(x), axis=(2, 3), keepdims=True)),  # type: ignore[call-overload]
    "interpolate": lambda m, x: torch.sin(F.interpolate(input=m.c(x), scale_factor=2)),
}
OTHERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "dropout that stays": lambda m, x: m.d(F.dropout(m.c(x), 0.5, True)),
    "a factor with a rest": lambda m, x: torch.sin(F.interpolate(m.c(x)[..., :2, :2], scale_factor=2.3)),
    "a parameter": lambda m, x: m.d(m.c(x) * m.scale) + m.c(x),
    "a parameter as output": lambda m, x: (m.d(x), m.scale),
    "a number from values": lambda m, x: m.d(x) * (m.c(x) > 0).nonzero().size(0),
    "sparse between": lambda m, x: m.d(torch.sin(m.c(x)).to_sparse().to_dense()),
    "views as outputs": lambda m, x: (lambda y: (y[:, :2], y[:, 2:], y, y.flatten(1), x, x[:, :1]))(m.c(x)),
}


@pytest.mark.parametrize("name", [*PICKED, *NAMED, *OTHERS])
def test_same_at_every_call(name: str) -> None:
    model = Between({**PICKED, **NAMED, **OTHERS}[name]).eval()
    converted = fastconv.convert(model)
    assert_follows(model, converted)
    assert converted.region.last.unplanned is None


def test_reading_a_weight_does_not_end_a_segment() -> None:
    model = Between(OTHERS["a parameter"]).eval()
    converted = fastconv.convert(model, torch.randn(SHAPE))
    assert len(plan_of(converted).runs) == 1
    with torch.no_grad():
        model.scale.mul_(3)
    assert_follows(model, converted)


def test_blocks_beside_a_weight_that_is_read() -> None:
    class Scaled(MobileBlock):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(16, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    model = Scaled().eval()
    converted = fastconv.convert(model, torch.randn(1, 3, 64, 64))
    assert_follows(model, converted, 1, 3, 64, 64)
    assert plan_of(converted).fused


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(x) + y  # one kernel call reads both


@pytest.mark.parametrize("shared", ["one tensor", "overlapping"])
def test_inputs_that_share_memory_only_at_the_first_call(shared: str) -> None:
    model = Two().eval()
    converted = fastconv.convert(model)
    wide = torch.randn(1, 5, 8, 8)
    first = (wide[:, :4], wide[:, :4] if shared == "one tensor" else wide[:, 1:])
    for x, y in (first, (torch.randn(1, 5, 8, 8)[:, :4], torch.randn(1, 5, 8, 8)[:, :4])):
        with torch.no_grad():
            torch.testing.assert_close(converted(x, y), model(x, y))
        assert plan_of(converted).kernel_count > 0


def test_tensors_that_are_not_their_memory() -> None:
    model = build("inception")
    converted = fastconv.convert(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        converted(x)
        assert plan_of(converted).kernel_count > 0
        torch.testing.assert_close(converted(torch._neg_view(x)), model(-x), rtol=1e-4, atol=1e-5)


def test_sparse_inputs() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, edges: Tensor, x: Tensor) -> Tensor:
            return self.lin(torch.sparse.mm(edges, self.lin(x)))

    model = Graph().eval()
    converted = fastconv.convert(model)
    edges = torch.eye(5).to_sparse()
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(5, 4)
            torch.testing.assert_close(converted(edges, x), model(edges, x))
    assert converted.region.last.plan is None and converted.region.last.unplanned is None


def test_whatever_planning_raises_the_steps_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        torch.rand(3)
        raise IndexError("no such thing")

    model = build("inception")
    monkeypatch.setattr(Planner, "_step", fail)
    x = torch.randn(2, 3, 16, 16)
    state = torch.get_rng_state()
    converted = fastconv.convert(model, x)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert "no plan: IndexError: no such thing" in str(fastconv.explain(converted))


def test_what_a_call_may_raise_is_still_raised() -> None:
    converted = fastconv.convert(build("inception"))
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
        converted(torch.randn(2, 7, 16, 16))
