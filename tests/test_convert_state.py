"""What a forward keeps in lists and dictionaries: a capture leaves no recorded value in the model, and finds none."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from converting import served
from torch import Tensor, nn

import fastconv


class _Cached(nn.Module):
    """Keeps a table made of its weights, as LeViT keeps its attention biases; open shapes cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.randn(2, 4))
        self.register_buffer("order", torch.tensor([1, 0, 0, 1]))
        self.cache: dict[str, Any] = {"nested": []}

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        n, c, h, w = y.shape
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.table[:, self.order].sum(0).view(c, 1, 1)
            self.cache["nested"].append(y.dtype)
        return y.view(n, c, h, w) * self.cache[str(x.device)]


class _Open(_Cached):
    def forward(self, x: Tensor) -> Tensor:
        if "table" not in self.cache:
            self.cache["table"] = self.table[:, self.order].sum(0).view(4, 1, 1)
        return self.conv(x) * self.cache["table"]


@pytest.mark.parametrize("kind", [_Cached, _Open])
def test_a_cache_of_weights(kind: type[_Cached]) -> None:
    model = nn.Sequential(kind(), nn.Conv2d(4, 3, 1)).eval()
    converted = fastconv.convert(model)
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for size in (6, 8, 6):
            x = torch.randn(2, 3, size, size)
            wanted = reference(x)
            for _ in range(2):
                torch.testing.assert_close(converted(x), wanted, atol=1e-5, rtol=1e-5)
        assert len(served(converted)) == 2
        assert model[0].cache == {"nested": []}
        assert type(model(x)) is Tensor
        torch.testing.assert_close(model(x), wanted)
        pickle.loads(pickle.dumps(model))
        torch.testing.assert_close(copy.deepcopy(converted)(x), wanted, atol=1e-5, rtol=1e-5)


def test_a_cache_of_weights_is_made_of_those_of_now() -> None:
    model = _Cached().eval()
    converted, x = fastconv.convert(model), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        converted(x)
        model.table.mul_(2)
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)


class _Holder(UserDict):  # type: ignore[type-arg]
    pass


class _Emptied(_Open):
    """In training its cache is emptied, or another."""

    def __init__(self, kind: Callable[[], Any], is_emptied: bool, is_shaped: bool) -> None:
        super().__init__()
        self.kind, self.is_emptied, self.is_shaped = kind, is_emptied, is_shaped
        self.cache = kind()

    def forward(self, x: Tensor) -> Tensor:
        if self.is_shaped and x.shape[1] != 3:
            return x
        return super().forward(x)

    def train(self, mode: bool = True) -> _Emptied:
        if mode and self.is_emptied:
            self.cache.clear()
        elif mode:
            self.cache = self.kind()
        return super().train(mode)


@pytest.mark.parametrize("is_shaped", [False, True], ids=["any shape", "known shape"])
@pytest.mark.parametrize("is_emptied", [False, True], ids=["replaced", "emptied"])
@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda: defaultdict(list), _Holder])
def test_a_cache_that_was_full_and_is_emptied_by_training(
    kind: Callable[[], Any], is_emptied: bool, is_shaped: bool
) -> None:
    model, x = _Emptied(kind, is_emptied, is_shaped).eval(), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        model(x)
        converted = fastconv.convert(model)
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
        for _ in range(2):
            model.train()
            model.table.mul_(2)
            model.eval()
            torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
    assert len(served(converted)) == 1


class _Remembering(nn.Module):
    """Returns the mean of all its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 3), [torch.zeros(1, 4, 1, 1)]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.conv(x).mean((2, 3), keepdim=True))
        return torch.cat(self.seen).mean(0)


@pytest.mark.parametrize("example", [None, torch.randn(1, 3, 6, 6)], ids=["", "with an example"])
def test_state_that_follows_from_inputs_is_not_captured(example: Tensor | None) -> None:
    model = nn.Sequential(_Remembering(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())).eval()
    reference = copy.deepcopy(model)
    converted = fastconv.convert(model, example)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(1, 3, 6, 6)
            torch.testing.assert_close(converted(x), reference(x), atol=1e-5, rtol=1e-5)
    assert len(model[0].seen) == 5 and all(type(part) is Tensor for part in model[0].seen)
    assert "which follows from its inputs, for calls to come" in str(fastconv.explain(converted))


class _Listing(nn.Module):
    """A list that each call makes anew says nothing to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        self.features = [self.a(x)]
        self.features.append(self.b(self.features[-1]))
        return self.features


def test_a_list_that_each_call_makes_is_captured() -> None:
    model = _Listing().eval()
    converted, x = fastconv.convert(model), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for y, wanted in zip(converted(x), copy.deepcopy(model)(x), strict=True):
            torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)
    assert len(served(converted)) == 2
    assert not hasattr(model, "features") and not hasattr(converted.region.module, "features")
