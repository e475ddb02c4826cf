"""The first call of a set of shapes: what may raise, who draws random numbers, what is let go of, who waits."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
from planning import build, plan_of
from test_fallbacks import SHAPE, Between
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv.convert.plan import cache
from fastconv.convert.plan.cache import Plans
from fastconv.convert.plan.planner import Planner
from fastconv.convert.plan.program import Moved
from fastconv.convert.prepared import Prepared


class _Picky(nn.Module):
    """Of the user's own: a branch on values, and an exception with a cause."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.abs().max() > 1e3:
            raise LookupError("too large") from KeyError("cause")
        return x


def test_what_a_module_of_the_users_raises_is_raised_once_and_forgotten() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), _Picky(), nn.Conv2d(4, 4, 1)).eval()
    converted = fastconv.convert(model)
    with torch.no_grad():
        with pytest.raises(LookupError, match="too large") as caught:
            converted(torch.full(SHAPE, 1e6))
        assert isinstance(caught.value.__cause__, KeyError)
        assert converted.region.module[1].calls == 1
        x = torch.randn(SHAPE)
        torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)
    assert plan_of(converted).left


def test_only_who_leaves_something_to_torch_touches_the_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    set_state, sets = torch.set_rng_state, []
    monkeypatch.setattr(torch, "set_rng_state", lambda state: (sets.append(state), set_state(state)))
    x = torch.randn(1, 3, 64, 64)
    converted = fastconv.convert(build("mobile"))
    with torch.no_grad():
        converted(x)
    assert plan_of(converted).fused and not sets

    model = nn.Sequential(build("mobile"), nn.Tanhshrink()).eval()
    converted = fastconv.convert(model)
    with torch.no_grad():
        converted(x)
    assert plan_of(converted).fused and plan_of(converted).left and len(sets) == 1


def test_shapes_without_a_plan_do_not_keep_folded_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[Prepared] = []
    monkeypatch.setattr(Prepared, "let_go", lambda prepared: let_go.append(prepared))
    converted = fastconv.convert(build("inception"))
    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(Planner, "_step", lambda *arguments: 1 // 0)
            converted(torch.randn(2, 3, 16, 16))
        assert converted.region.last.plan is None and not let_go
        converted(torch.randn(1, 3, 16, 16))
        assert plan_of(converted) and let_go
        made = len(let_go)
        converted(torch.randn(3, 3, 16, 16))
        assert converted.memory().plans == 2 and len(let_go) == made


class _StoredMeanwhile(OrderedDict[Any, Any]):
    """As if another thread made the plan between the look-up and the lock."""

    missed = False

    def get(self, key: Any, default: Any = None) -> Any:
        if not self.missed:
            self.missed = True
            return default
        return super().get(key, default)


def test_a_plan_that_another_thread_made_runs_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Between(lambda m, x: m.d(m.c(x))).eval()
    converted, x = fastconv.convert(model), torch.randn(SHAPE)
    held: list[bool] = []
    run = Plans._run

    def noted(self: Plans, *arguments: Any) -> Any:
        held.append(self._program.store.lock._is_owned())
        return run(self, *arguments)

    with torch.no_grad():
        expected = converted(x)
        plans = converted.region.last._plans
        plans._plans = _StoredMeanwhile(plans._plans)
        monkeypatch.setattr(Plans, "_run", noted)
        assert torch.equal(converted(x), expected)
    assert plans._plans.missed and held == [False]
    assert converted.memory().plans == 1


def test_plans_are_counted_while_other_threads_call() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    converted = fastconv.convert(model)
    known = [torch.randn(1, 4, 4, 4 + i) for i in range(60)]
    interval, done = sys.getswitchinterval(), threading.Event()

    def call(index: int) -> None:
        try:
            with torch.no_grad():
                for i in itertools.count() if index else range(300):
                    converted(known[i % len(known)] if index else torch.randn(1, 4, 5, 4 + i))
                    if done.is_set():
                        break
        finally:
            done.set()

    with torch.no_grad():
        for x in known:
            converted(x)
    sys.setswitchinterval(1e-6)
    try:
        at_once(call, 3)
    finally:
        sys.setswitchinterval(interval)
    assert converted.memory().plans == cache.MAX_PLANS


def test_a_plan_that_cannot_be_does_not_run_the_users_code_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **keywords: Any) -> None:
        raise Moved("conv2d (row): not there")

    monkeypatch.setattr(cache, "PlannedProgram", refused)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), _Picky(), nn.Conv2d(4, 4, 1)).eval()
    converted, x = fastconv.convert(model), torch.randn(SHAPE)
    with torch.no_grad():
        for calls in (1, 2):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)
            assert converted.region.module[1].calls == calls
    assert "no plan: Moved: conv2d (row): not there" in str(fastconv.explain(converted))
