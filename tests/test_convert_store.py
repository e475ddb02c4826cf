"""The weights of a region while one thread remakes them and another captures a program that needs more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastconv.convert import ir, lower
from fastconv.convert.lower import WeightStore
from fastconv.nn.weights import find_weight


def _linear(name: str) -> ir.Linear:
    weight = find_weight(nn.Linear(2, 2), "weight", name)
    assert weight is not None
    return ir.Linear((name,), weight, None)


class _Dropping:
    slots = ()

    def check(self) -> None: ...


ADDITIONS: dict[str, Callable[[WeightStore], Any]] = {
    "prepare": lambda store: store.prepare(_linear("more"), False),
    "watch": lambda store: store.watch((({"weight": torch.ones(2)}, "weight"),)),
    "judge": lambda store: store.judge(None, None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("during", ["listing", "making"])
def test_what_is_added_while_weights_are_remade(addition: str, during: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WeightStore(None)
    first, second = store.prepare(_linear("first"), False), store.prepare(_linear("second"), False)
    dropping = _Dropping()  # held here: the store does not
    monkeypatch.setattr(lower, "drop_channels", lambda graph, context: dropping)
    added = threading.Event()

    def add() -> None:
        ADDITIONS[addition](store)
        added.set()

    thread = threading.Thread(target=add)

    def interrupted(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            if not thread.ident:
                thread.start()
                added.wait(0.3)  # long enough for whoever need not wait
            return function(*arguments)

        return run

    if during == "listing":
        monkeypatch.setattr(lower, "Sources", interrupted(lower.Sources))
    else:
        monkeypatch.setattr(type(first), "refresh", interrupted(type(first).refresh))
    store.refresh()
    thread.join()
    assert first.weight is not None and second.weight is not None
    assert not store._is_fresh(), "what was added has not been made"
    store.refresh()
    assert store._is_fresh()
