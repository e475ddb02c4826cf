"""What of torch.cuda plans and their graphs need, and nothing else of them: streams, capture, one call at a time.

`graphed.py` uses it through the methods of `CudaGraphs`; tests put a stand-in in its place.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from fastconv.convert.plan.target import Target

# torch allows one capture at a time in a process.
_capturing = threading.Lock()


class Captured(Protocol):
    def replay(self) -> None: ...


class Graphs(Protocol):
    """Where the plans of one network are captured for one device."""

    def busy(self) -> str | None:
        """Why no graph can be captured or replayed now."""

    def warm_up(self, run: Callable[[], Any]) -> None: ...

    def capture(self, run: Callable[[], Any]) -> tuple[Captured, Any]:
        """The graph of what `run` launches, and what it returns, without values. Raises what `run` does, and
        RuntimeError where something cannot be captured."""

    def turn(self, inputs: Sequence[Tensor]) -> Any:
        """A context: the memory of all these graphs, and these tensors, belong to the caller's stream."""


def graphs_of(target: Target) -> Graphs | str:
    """A place to capture in, or why there is none."""
    return CudaGraphs(target.device) if target.device.type == "cuda" else "the emulated GPU has no graphs"


class Made:
    """What was made on one stream of a GPU, and is read on all: weights and plans."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        here = torch.cuda.current_stream(device)
        self._readers = {here}
        self._event: torch.cuda.Event | None = None
        if not self._is_capturing():  # an event of a capture is nothing that others could wait for
            self._event = torch.cuda.Event()
            self._event.record(here)

    def read(self, tensors: Callable[[], Iterable[Tensor]]) -> None:
        """The current stream may read them from now on, and who frees them need not know of it."""
        stream = torch.cuda.current_stream(self._device)
        if stream in self._readers or self._event is None or self._is_capturing():
            return  # a capture cannot wait for what happens outside of it; torch's waits for the GPU at its start
        stream.wait_event(self._event)
        for tensor in tensors():
            if tensor.device == self._device:
                tensor.record_stream(stream)
        self._readers.add(stream)

    def _is_capturing(self) -> bool:
        with torch.cuda.device(self._device):
            return torch.cuda.is_current_stream_capturing()


def made_here(devices: Iterable[torch.device]) -> list[Made]:
    """On the current stream of each GPU."""
    return [Made(device) for device in devices if device.type == "cuda"]


class CudaGraphs:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.RLock()
        # Graphs share one pool: their arenas lie over one another, as no two of them run at the same time. torch
        # forgets a pool with its last graph.
        self._pool: Any = None
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self._side: torch.cuda.Stream | None = None
        self._last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None

    def busy(self) -> str | None:
        with torch.cuda.device(self._device):
            return "a capture is under way" if torch.cuda.is_current_stream_capturing() else None

    def warm_up(self, run: Callable[[], Any]) -> None:
        side, here = self._side_stream(), torch.cuda.current_stream(self._device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            run()
        here.wait_stream(side)

    def capture(self, run: Callable[[], Any]) -> tuple[Captured, Any]:
        with _capturing, torch.cuda.device(self._device):
            if not self._alive:
                self._pool = torch.cuda.graph_pool_handle()
            graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
            # Other threads may go on allocating. Everything that is captured is launched by this one.
            how = {"pool": self._pool, "stream": self._side_stream(), "capture_error_mode": "thread_local"}
            try:
                with torch.cuda.graph(graph, **how):
                    result = run()
            finally:
                torch.cuda.set_stream(here)  # torch stays on the side stream where a capture fails to end
            self._alive.add(graph)
            return graph, result

    @contextmanager
    def turn(self, inputs: Sequence[Tensor]) -> Iterator[None]:
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream(self._device)
            if self._last is not None and self._last[0] != stream:
                stream.wait_event(self._last[1])
            for tensor in inputs:
                tensor.record_stream(stream)  # who frees it need not know of this stream
            try:
                yield
            finally:
                event = self._last[1] if self._last is not None else torch.cuda.Event()
                event.record(stream)
                self._last = stream, event

    def _side_stream(self) -> torch.cuda.Stream:
        if self._side is None:
            self._side = torch.cuda.Stream(self._device)
        return self._side
