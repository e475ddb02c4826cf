"""A stand-in for CUDA graphs where there is no GPU: what a capture would record is noted, and done again at a replay.

As on a GPU nothing is computed while it is captured, what is recorded knows its tensors by their memory, and no Python
of the network runs at a replay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fastconv.convert.plan.target import Target

_run = Target.run
_recording = threading.local()


def run(target: Target, plan: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """In the place of Target.run."""
    graph = getattr(_recording, "graph", None)
    if graph is None:
        _run(target, plan, inputs, outputs)
        return
    graph.work.append(lambda: _run(target, plan, inputs, outputs))
    for y in outputs:
        y.fill_(float("nan"))


class Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work: list[Callable[[], Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        mine = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        made = [x for x in made if x.untyped_storage().data_ptr() not in mine]

        def again() -> None:
            fresh = [x for x in pytree.tree_leaves(function(*args, **(kwargs or {}))) if isinstance(x, Tensor)]
            for x, y in zip(made, fresh, strict=False):
                x.copy_(y)

        if "empty" not in str(function) and "fill_" not in str(function):
            self.work.append(again)
        return result

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for step in self.work:
                step()


class StandIn:
    """`Graphs` of one network."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.graphs: list[Recorded] = []
        self.warm_ups = 0
        self.why_busy: str | None = None
        self.error: Exception | None = None  # that a capture raises

    def busy(self) -> str | None:
        return self.why_busy

    def warm_up(self, run: Callable[[], Any]) -> None:
        self.warm_ups += 1
        run()

    def capture(self, run: Callable[[], Any]) -> tuple[Recorded, Any]:
        if self.error is not None:
            raise self.error
        graph = Recorded()
        _recording.graph = graph
        try:
            with graph:
                result = run()
        finally:
            _recording.graph = None
        self.graphs.append(graph)
        return graph, result

    @contextmanager
    def turn(self, inputs: Sequence[Tensor]) -> Iterator[None]:
        with self.lock:
            yield
