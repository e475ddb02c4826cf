"""Capturing with known shapes: what torch's C++ does with a recorded tensor, and what hooks collect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from converting import served
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastconv


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def _assigned(x: Tensor) -> Tensor:
    z = torch.zeros(2, 4, 6, 6)
    z[:, 1:] = x[:, 1:]
    z[x > 0] = 0.5
    return z


# Each takes a recorded tensor to code that looks at it as an object of torch's own. as_tensor and its like crashed the
# process where that object only claimed to be a tensor.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor": lambda x: torch.tensor(x),
    "Tensor": lambda x: torch.Tensor(x),
    "as_tensor": lambda x: torch.as_tensor(x),
    "asarray": lambda x: torch.asarray(x),
    "Variable": lambda x: torch.autograd.Variable(x),
    "Parameter": lambda x: nn.Parameter(x),
    "vmap": lambda x: torch.vmap(lambda t: t * 2)(x),
    "own function": lambda x: _Swish.apply(x),
    "index": lambda x: torch.arange(24.0).view(4, 6)[x.long().abs() % 4],
    "assigned": _assigned,
    "checkpoint": lambda x: checkpoint(lambda t: t.relu(), x, use_reentrant=True),
    "property": lambda x: x.mT + x.data,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy() * 2),
    "number": lambda x: x + float(x.sum()),
}


class _Way(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.after, self.way = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), way

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 8:  # which fx's own proxies refuse: the capture with known shapes is the one that is tested
            return x
        y = WAYS[self.way](self.conv(x))
        return self.after(y.reshape(2, 4, -1, 6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_ways_out_of_the_recording(way: str) -> None:
    model = _Way(way)
    converted = fastconv.convert(model)
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(2, 3, 6, 6)
            torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)


class _Collecting(nn.Module):
    """Hands its hidden states on as transformers does: hooks, registered by the first forward, fill a list that the
    code around the hooked modules returns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2))
        self.states: list[Tensor] | None = None
        self.hooked = False

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.hooked:
            self.hooked = True
            for stage in self.stages:
                stage.register_forward_hook(lambda module, args, y: self.states.append(y))  # type: ignore[union-attr]
        self.states = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        collected, self.states = tuple(self.states), None
        return x, collected


@pytest.mark.parametrize("called_before", [False, True])
def test_hooks_that_collect_for_the_code_around_them(called_before: bool) -> None:
    model = _Collecting().eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        if called_before:
            model(x)
        converted = fastconv.convert(model, x)
        for _ in range(2):
            x = torch.randn(1, 3, 8, 8)
            y, states = converted(x)
            expected, theirs = model(x)
            assert len(states) == len(theirs) == 2  # the conversion registered none of its own on the model
            for ours, other in zip((y, *states), (expected, *theirs), strict=True):
                torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)


def test_hooked_modules_are_served_and_removed_hooks_are_noticed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()
    seen: list[Tensor] = []
    handle = model[1].register_forward_hook(lambda module, args, y: seen.append(y))
    converted = fastconv.convert(model)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(converted(x), expected, atol=1e-5, rtol=1e-5)
        rows = fastconv.explain(converted).rows
        assert any(row.fused and len(row.layers) == 3 for row in rows), rows
        assert "hooks are registered on 1" in str(fastconv.explain(converted)) and len(seen) == 2
        handle.remove()
        torch.testing.assert_close(converted(x), expected, atol=1e-5, rtol=1e-5)
    assert len(seen) == 2 and len(served(converted)) == 2
