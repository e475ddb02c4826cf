"""A conversion notices what changes in the model beside its weights, in one thread or several."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import randomise
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv import _C
from fastconv.convert.capture import HOOK_TABLES
from fastconv.convert.watch import Structure


class Switched(nn.Module):
    """Numbers, a switch and a plain tensor of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0)
        self.gain, self.shifted, self.offset = 1.0, False, torch.zeros(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x)) * self.gain
        return y + 1 if self.shifted else y + self.offset


def _set(path: str, name: str, value: Any) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def _patch(model: nn.Module) -> None:
    model.get_submodule("act").forward = torch.tanh  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "a slope that was an int": _set("act", "negative_slope", 0.5),
    "a stride": _set("conv", "stride", (2, 2)),
    "a number of the user's": _set("", "gain", 3.0),
    "a switch of the user's": _set("", "shifted", True),
    "a tensor of the user's": _set("", "offset", torch.ones(4, 1, 1)),
    "a forward on the object": _patch,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_beside_the_weights(change: str) -> None:
    model = randomise(Switched())
    x = torch.randn(1, 3, 6, 6)
    converted = fastconv.convert(model, x)
    with torch.no_grad():
        before = converted(x)
        CHANGES[change](model)
        after, wanted = converted(x), model(x)
    torch.testing.assert_close(after, wanted)
    assert before.shape != after.shape or not torch.equal(before, after)


def test_an_attribute_that_a_loop_writes() -> None:
    """Python compiles repeated writes into instructions of their own, past the dictionary's functions."""
    model = randomise(Switched())
    x = torch.randn(1, 3, 6, 6)
    converted = fastconv.convert(model, x)
    with torch.no_grad():
        plain = converted(x)
        for step in range(50):
            model.gain = float(step)
            model.unrelated = step
            if step % 10 == 0:
                torch.testing.assert_close(converted(x), plain * step)


def test_watched_dictionaries() -> None:
    watch, table, empty = _C.Watch(), {"a": object(), "b": object()}, OrderedDict[str, object]()
    kept = watch.entries(table, ["a", "c"]) + watch.values(empty)
    for change, seen in (
        (lambda: None, True),
        (lambda: table.update(b=object()), True),
        (lambda: table.update(c=object()), False),
        (lambda: table.pop("c"), True),
        (lambda: table.update(a=object()), False),
        (lambda: table.update(a=kept[0]), True),
        (lambda: empty.update(x=1), False),
        (lambda: empty.clear(), True),
        (lambda: table.clear(), False),
    ):
        change()
        assert [watch.unchanged(), watch.unchanged()] == [seen, seen]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_watched_order(kind: type[dict[str, object]]) -> None:
    watch, table = _C.Watch(), kind(a=object(), b=object())
    kept = watch.values(table)
    first = table.pop("a")
    assert not watch.unchanged()
    table["a"] = first
    assert not watch.unchanged(), "b comes first now"
    table["b"] = table.pop("b")
    assert watch.unchanged() and kept
    table.popitem()
    assert not watch.unchanged()
    assert not watch.unchanged(), "asked twice"


def test_members_that_go_and_come() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Tanh()))
    converted, x = fastconv.convert(model), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        for change in (
            lambda: model.pop(-1),
            lambda: model.append(nn.ReLU()),
            lambda: model.__delitem__(slice(0, 0)),
            lambda: model.append(nn.Tanh()),
            lambda: setattr(model, "_modules", dict(list(model._modules.items())[:2])),
        ):
            torch.testing.assert_close(converted(x), model(x))
            change()
            torch.testing.assert_close(converted(x), model(x))


def test_a_hook_in_the_place_of_another() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    handle = model[0].register_forward_hook(lambda module, args, output: output * 2)
    converted, x = fastconv.convert(model), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        converted(x)
        handle.remove()
        model[0].register_forward_hook(lambda module, args, output: output - 1)
        torch.testing.assert_close(converted(x), model(x))


def _by_name(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
    if output is None:
        return args, {**kwargs, "gain": 3.0}
    return output * kwargs.get("gain", 2.0)


class _Gained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return self.conv(x) * gain


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "with keyword arguments": lambda m: m.register_forward_hook(_by_name, with_kwargs=True),
    "before, with keyword arguments": lambda m: m.register_forward_pre_hook(_by_name, with_kwargs=True),
    "whatever happens": lambda m: m.register_forward_hook(lambda module, args, y: y * 2, always_call=True),
}


@pytest.mark.parametrize("first", HOOKS)
@pytest.mark.parametrize("second", HOOKS)
def test_hooks_of_every_kind(first: str, second: str) -> None:
    model = randomise(nn.Sequential(_Gained(), nn.ReLU()))
    converted, x = fastconv.convert(model), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        for kind in (first, second):
            handle = HOOKS[kind](model[0])
            torch.testing.assert_close(converted(x), model(x))
            handle.remove()
            torch.testing.assert_close(converted(x), model(x))


def test_a_hook_that_is_registered_anew_as_another_kind() -> None:
    def hook(module: nn.Module, *arguments: Any) -> Any:
        return arguments[-1] * len(arguments)  # one more with keyword arguments

    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    handle = model[0].register_forward_hook(hook)
    converted, x = fastconv.convert(model), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        before = converted(x)
        handle.remove()
        model[0].register_forward_hook(hook, with_kwargs=True)
        after = converted(x)
        torch.testing.assert_close(after, model(x))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("table", HOOK_TABLES)
def test_every_table_of_hooks_is_watched(table: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    structure = Structure(model)
    assert structure.unchanged()
    entries = getattr(model[0], table)
    entries[7] = True
    assert not structure.unchanged()
    del entries[7]
    assert structure.unchanged()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_norm_by_itself_in_another_type(dtype: torch.dtype) -> None:
    model = randomise(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)))
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        y, wanted = fastconv.convert(model, dtype=dtype)(x), model(x)
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)


def test_threads_that_find_a_change_together() -> None:
    """fx patches nn.Module while it captures: other threads must not notice."""
    x = torch.randn(1, 3, 6, 6)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(4):
            model = randomise(Switched(), seed=round_)
            converted = fastconv.convert(model, x)
            model.gain = 2.0 + round_
            with torch.no_grad():
                wanted = model(x)

            def call(_: int, converted: nn.Module = converted, wanted: Tensor = wanted) -> None:
                with torch.no_grad():
                    torch.testing.assert_close(converted(x), wanted)

            at_once(call, 6)
    finally:
        sys.setswitchinterval(interval)
