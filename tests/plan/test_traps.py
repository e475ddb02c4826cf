"""Where a plan could be right at its first call and wrong at a later one, or for one thread and not for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from planning import plan_of
from test_fallbacks import Between, assert_follows
from threads import at_once
from torch import Tensor, fx, nn

import fastconv


@fx.wrap
def mean(x: Tensor) -> Tensor:
    """Has a name of torch's and means something else."""
    return x * 2


class Doubling(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return input * (2 if input.sum() > 0 else 3)


class Subclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.doubling = nn.Conv2d(4, 4, 1), Doubling()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.doubling(self.c(x)))


TRAPS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a sum with one of its own rows": lambda m, x: m.d((y := m.c(x)) + y[:, :, :1]),
    "a sum with its own first channel": lambda m, x: m.d((y := m.c(x)) + y[:, :1]),
    "a sum with itself on its side": lambda m, x: m.d((y := m.c(x)) + y.transpose(2, 3)),
    "as many columns as values say": lambda m, x: m.c(x)[..., : m.d(x).mean((0, 2, 3)).argmax() + 1],
    "rows and columns exchanged": lambda m, x: nn.functional.silu(m.c(x).transpose(2, 3)),
    "a function of the user's": lambda m, x: m.d(mean(m.c(x))),
}


@pytest.mark.parametrize("name", TRAPS)
def test_same_at_every_call(name: str) -> None:
    model = Between(TRAPS[name]).eval()
    converted = fastconv.convert(model)
    assert_follows(model, converted)
    assert plan_of(converted).kernel_count > 0 and converted.region.last.unplanned is None


def test_a_subclass_of_a_module_that_does_nothing() -> None:
    model = Subclass().eval()
    converted = fastconv.convert(model)
    assert_follows(model, converted)
    assert plan_of(converted).kernel_count > 0 and converted.region.last.unplanned is None


def test_outputs_under_another_default_device() -> None:
    model = Between(lambda m, x: m.d(m.c(x))).eval()
    converted, x = fastconv.convert(model), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = converted(x)
        assert plan_of(converted)
        with torch.device("meta"):
            assert torch.equal(converted(x), expected)


def test_a_switch_thrown_and_thrown_back_finds_its_plan_again() -> None:
    model = Between(lambda m, x: m.d(m.c(x))).eval()
    converted, x = fastconv.convert(model), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        for _ in range(4):
            converted(x)
            with fastconv.allow_winograd(False):
                converted(x)
    assert converted.memory().plans == 2


def test_weights_change_and_many_threads_call() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(4)]).eval()
    converted, x = fastconv.convert(model), torch.randn(1, 8, 12, 12)
    for _ in range(25):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.05)
            expected = model(x)

        def call(_: int, expected: Tensor = expected) -> None:
            with torch.no_grad():
                for _ in range(3):
                    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-5)

        at_once(call, 6)
    assert plan_of(converted).kernel_count > 0
