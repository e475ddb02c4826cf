"""What decides the next call is not captured, whatever holds it; what each call makes anew is; threads lose nothing."""

from __future__ import annotations

import copy
import threading
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from converting import served
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv.convert.contents import RECORDED, leaves


@dataclass
class _Plain:
    last: Any = None


class _Slotted:
    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = None


class _Reduced(_Plain):
    """Says itself how it is copied: captures share it with the model."""

    def __reduce__(self) -> Any:
        return _Reduced, (self.last,)


class _Config(dict):  # type: ignore[type-arg]
    pass


def _add(y: Tensor, last: Any) -> Tensor:
    return y if last is None else y + last


def _attribute(m: Any, y: Tensor) -> Tensor:
    y, m.state = _add(y, m.state), y
    return y


def _entry(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state.get("last"))
    m.state["last"] = y
    return out


def _entry_in_tuple(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state[0].get("last"))
    m.state[0]["last"] = y
    return out


def _tuple_in_entry(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state.get("last", (None,))[0])
    m.state["last"] = (y, 1)
    return out


def _list_in_entry(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state.get("last", [None])[0])
    m.state["last"] = [y]
    return out


def _first(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state[0] if m.state else None)
    m.state.append(y)
    return out


def _object(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state.last)
    m.state.last = y
    return out


def _object_anew(m: Any, y: Tensor) -> Tensor:
    out = _add(y, m.state and m.state.last)
    m.state = _Plain(y)
    return out


def _counter(m: Any, y: Tensor) -> Tensor:
    m.state += 1
    return y * m.state


def _tensor(m: Any, y: Tensor) -> Tensor:
    m.state = m.state + 1
    return y * m.state


def _counter_in_entry(m: Any, y: Tensor) -> Tensor:
    m.state["n"] += 1
    return y * m.state["n"]


def _flag(m: Any, y: Tensor) -> Tensor:
    was, m.state = m.state, False
    return y * 2 if was else y


def _length(m: Any, y: Tensor) -> Tensor:
    m.state.append(1)
    return y * len(m.state)


def _taken_out(m: Any, y: Tensor) -> Tensor:
    return y * m.state.pop("once", 1)


def _attribute_not_there_at_first(m: Any, y: Tensor) -> Tensor:
    out = _add(y, getattr(m, "other", None))
    m.other = y
    return out


KEPT: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], Any]]] = {
    "an attribute": (_attribute, lambda: None),
    "an attribute not there at first": (_attribute_not_there_at_first, lambda: None),
    "an entry": (_entry, dict),
    "a dictionary's subclass": (_entry, _Config),
    "a dictionary of Python's": (_entry, UserDict),
    "a dictionary in a tuple": (_entry_in_tuple, lambda: ({},)),
    "a tuple in an entry": (_tuple_in_entry, dict),
    "a list in an entry": (_list_in_entry, dict),
    "a list": (_first, list),
    "a deque": (_first, lambda: deque(maxlen=1)),
    "an object": (_object, _Plain),
    "an object with slots": (_object, _Slotted),
    "an object that is not copied": (_object, _Reduced),
    "a new object": (_object_anew, lambda: None),
    "a counter": (_counter, lambda: 0),
    "a tensor": (_tensor, lambda: torch.zeros(1)),
    "a counter in an entry": (_counter_in_entry, lambda: {"n": 0}),
    "a flag": (_flag, lambda: True),
    "a length": (_length, list),
    "an entry taken out": (_taken_out, lambda: {"once": 3}),
}


class _Keeping(nn.Module):
    def __init__(self, way: Callable[[Any, Tensor], Tensor], state: Any) -> None:
        super().__init__()
        self.conv, self.way, self.state = nn.Conv2d(3, 3, 1), way, state

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, self.conv(x))


class _Asserting(_Keeping):
    """Its shapes must be known."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor) and x.shape[1] == 3
        return super().forward(x)


class _Exported(_Keeping):
    """torch.export alone could follow: it knows the values of what it makes itself."""

    def forward(self, x: Tensor) -> Tensor:
        assert type(x).__name__ != "_ShapedProxy" and isinstance(x, Tensor)
        return super().forward(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [_Keeping, _Asserting, _Exported])
@pytest.mark.parametrize("name", KEPT)
def test_what_decides_the_next_call(name: str, kind: type[_Keeping]) -> None:
    way, state = KEPT[name]
    model = kind(way, state()).eval()
    reference = copy.deepcopy(model)
    converted = fastconv.convert(model, torch.randn(1, 3, 4, 4))
    assert not any(isinstance(leaf, RECORDED) for leaf in leaves(vars(model)))
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(1, 3, 4, 4)
            torch.testing.assert_close(converted(x), reference(x), atol=1e-5, rtol=1e-5)
    assert converted.region.last is None and converted.region.why in str(fastconv.explain(converted))
    assert converted.region.children["conv"].last is not None


def _shown(m: Any, y: Tensor) -> Tensor:
    m.state = y
    return y * 2


def _shown_weights(m: Any, y: Tensor) -> Tensor:
    m.state = m.conv.weight.sum() * torch.ones(1)
    return y * m.state


def _shown_size(m: Any, y: Tensor) -> Tensor:
    m.state = y.shape[2]
    return y[:, :, : m.state] * 2


def _counted(m: Any, y: Tensor) -> Tensor:
    m.state["calls"] = 1
    m.features = [y]
    m.features.append(y * 2)
    return m.features[m.state["calls"]]


ANEW: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], Any]]] = {
    "a value to look at": (_shown, lambda: None),
    "a tensor of weights": (_shown_weights, lambda: torch.zeros(1)),
    "a number": (_shown_size, lambda: 0),
    "an entry": (_counted, lambda: {"calls": 0}),
}


@pytest.mark.parametrize("kind", [_Keeping, _Asserting])
@pytest.mark.parametrize("name", ANEW)
def test_what_each_call_makes_anew(name: str, kind: type[_Keeping]) -> None:
    way, state = ANEW[name]
    model = kind(way, state()).eval()
    x = torch.randn(1, 3, 4, 4)
    converted = fastconv.convert(model, x)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), copy.deepcopy(model)(x), atol=1e-5, rtol=1e-5)
    assert converted.region.why is None, "captured as a whole"
    assert model.state == state() and not hasattr(model, "features")


class _Logging(nn.Module):
    """Left to torch, and counts in containers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.calls, self.lock = 0, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
        self.seen.append(1)
        return x * 0 if x.abs().max() > 1e9 else x


def test_an_eager_part_may_count() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), _Logging(), nn.Conv2d(4, 4, 1)).eval()
    converted, x = fastconv.convert(model), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        for calls in (1, 2, 3):
            torch.testing.assert_close(converted(x), model[2](model[0](x)), atol=1e-5, rtol=1e-5)
            assert len(model[1].seen) == converted.region.module[1].calls == calls
    assert list(converted.region.last.opaque) == ["1"] and len(served(converted)) == 2


class _Branching(nn.Module):
    """Runs as it is, and is tried anew at each new size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.log = nn.Conv2d(3, 4, 3), _Logging()
        self.rest = nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(10)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.log(self.first(x))
        if y.abs().sum() > 1e9:
            y = y * 2
        return self.rest(y)


def test_what_eager_parts_keep_while_another_thread_captures() -> None:
    model = _Branching().eval()
    converted, x = fastconv.convert(model), torch.randn(1, 3, 8, 8)
    done, calls = threading.Event(), [0, 0]

    def call(index: int) -> None:
        with torch.no_grad():
            try:
                while not done.is_set() and calls[index] < (12 if index else 10**6):
                    converted(torch.randn(1, 3, 9 + calls[1], 9) if index else x)
                    calls[index] += 1
            finally:
                if index:
                    done.set()

    with torch.no_grad():
        for _ in range(2):
            converted(x)
    at_once(call, 2)
    log = converted.region.module.log
    assert log.calls == len(model.log.seen) == 2 + sum(calls)
