"""The few calls of torch.cuda behind graphs, in their order, against a torch.cuda that only writes them down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fastconv.convert.plan.cuda_graph import CudaGraphs, Made, graphs_of, made_here
from fastconv.convert.plan.target import Random, Target

DEVICE = torch.device("cuda", 1)


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: Event) -> None:
        self.cuda.log.append(f"{self.name} waits for the event of {event.on}")


class Event:
    on = ""

    def record(self, stream: Stream) -> None:
        self.on = stream.name
        stream.cuda.log.append(f"event on {stream.name}")


class Graph:
    pass


class Buffer:
    device = DEVICE

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def record_stream(self, stream: Stream) -> None:
        self.cuda.log.append(f"buffer used on {stream.name}")


class Cuda:
    """torch.cuda, as far as the module uses it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.pools = 0
        self.capturing = False
        self.here = Stream(self, "main")
        self.CUDAGraph, self.Event = Graph, Event
        self.fail_to_end = False

    def get_rng_state(self, device: torch.device) -> str:
        assert device == DEVICE
        assert not self.capturing
        return "drawn so far"

    def set_rng_state(self, state: str, device: torch.device) -> None:
        assert device == DEVICE
        self.log.append(f"generator as {state}")

    def Stream(self, device: torch.device) -> Stream:
        assert device == DEVICE
        return Stream(self, "side")

    def current_stream(self, device: torch.device) -> Stream:
        assert device == DEVICE
        return self.here

    def set_stream(self, stream: Stream) -> None:
        self.here = stream

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        assert device == DEVICE
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.here = self.here, stream
        yield
        self.here = before

    @contextmanager
    def graph(self, graph: Graph, pool: int, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"capture on {stream.name} in pool {pool}, {capture_error_mode}")
        before, self.here = self.here, stream
        try:
            yield
        finally:
            if self.fail_to_end:
                raise RuntimeError("the capture was invalidated")  # as torch does: the stream stays
            self.here = before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_a_replay_waits_for_the_last_one_on_another_stream(cuda: Cuda) -> None:
    graphs, buffers = CudaGraphs(DEVICE), [Buffer(cuda)]
    other = Stream(cuda, "other")
    for stream in (cuda.here, cuda.here, other):
        cuda.here = stream
        with graphs.turn(buffers):  # type: ignore[arg-type]
            cuda.log.append("replay")
    assert cuda.log == [
        *["buffer used on main", "replay", "event on main"] * 2,
        "other waits for the event of main", "buffer used on other", "replay", "event on other",
    ]  # fmt: skip


def test_weights_are_waited_for_once_by_each_other_stream(cuda: Cuda) -> None:
    home, other = cuda.here, Stream(cuda, "other")
    made, weights = Made(DEVICE), [Buffer(cuda)]
    for stream in (home, other, other, home):
        cuda.here = stream
        made.read(lambda: weights)  # type: ignore[arg-type, return-value]
        cuda.log.append("run")
    waits = ["other waits for the event of main", "buffer used on other"]
    assert cuda.log == ["event on main", "run", *waits, "run", "run", "run"]


def test_weights_in_a_capture_are_waited_for_behind_it(cuda: Cuda) -> None:
    made, weights = Made(DEVICE), [Buffer(cuda)]
    cuda.here, cuda.capturing = Stream(cuda, "other"), True
    made.read(lambda: weights)  # type: ignore[arg-type, return-value]
    Made(DEVICE)
    assert cuda.log == ["event on main"]
    cuda.capturing = False
    made.read(lambda: weights)  # type: ignore[arg-type, return-value]
    assert cuda.log[1:] == ["other waits for the event of main", "buffer used on other"]


def test_only_gpus_have_streams_to_order(cuda: Cuda) -> None:
    assert [type(made) for made in made_here([DEVICE, torch.device("cpu")])] == [Made]
    assert cuda.log == ["event on main"]


def test_a_turn_that_fails_is_over(cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    with pytest.raises(ValueError, match="x"), graphs.turn(()):
        raise ValueError("x")
    assert cuda.log == ["event on main"]


def test_warming_up_is_ordered_with_the_callers_stream(cuda: Cuda) -> None:
    CudaGraphs(DEVICE).warm_up(lambda: cuda.log.append(f"run on {cuda.here.name}"))
    assert cuda.log == ["side waits for main", "run on side", "main waits for side"]


def test_graphs_share_a_pool_while_one_of_them_lives(cuda: Cuda) -> None:
    """torch gives a pool up with its last graph, and asserts that nobody comes back to it."""
    graphs = CudaGraphs(DEVICE)
    first: Any = graphs.capture(lambda: None)
    second: Any = graphs.capture(lambda: None)
    del first, second
    graphs.capture(lambda: None)
    pools = [line.split("pool ")[1].split(",")[0] for line in cuda.log]
    assert pools == ["1", "1", "2"]
    assert "thread_local" in cuda.log[0]


def test_a_failed_capture_gives_the_stream_back(cuda: Cuda) -> None:
    graphs, here = CudaGraphs(DEVICE), cuda.here
    cuda.fail_to_end = True
    with pytest.raises(RuntimeError, match="invalidated"):
        graphs.capture(lambda: None)
    assert cuda.here is here
    cuda.fail_to_end = False
    assert graphs.capture(lambda: cuda.here.name)[1] == "side"


def test_a_capture_of_somebody_elses_is_seen(cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    assert graphs.busy() is None
    cuda.capturing = True
    assert graphs.busy() == "a capture is under way"


def test_a_second_planning_run_draws_the_same_numbers(cuda: Cuda) -> None:
    random = Random(DEVICE)
    first = torch.rand(3)
    random.restore()
    assert torch.equal(torch.rand(3), first)
    assert cuda.log == ["generator as drawn so far"]
    cuda.capturing = True
    Random(DEVICE).restore()
    Random(torch.device("cpu")).restore()
    assert len(cuda.log) == 1


def test_where_there_are_graphs() -> None:
    assert isinstance(graphs_of(Target("cuda", DEVICE)), CudaGraphs)
    assert "no graphs" in str(graphs_of(Target("cuda_emulated", torch.device("cpu"))))
