"""Converted networks as CUDA graphs, on a GPU. Skipped elsewhere: tests/plan/test_graphs.py has the stand-in."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv.verify.tf32 import in_full_precision

sys.path.insert(0, str(Path(__file__).resolve().parent / "plan"))

from planning import BUILDERS, build, leaves, plan_of, step_by_step

pytestmark = pytest.mark.skipif(
    fastconv.backends.why_unavailable("cuda") is not None, reason=str(fastconv.backends.why_unavailable("cuda"))
)
SHAPES = ((2, 3, 32, 32), (1, 3, 24, 40))


def image(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def on_gpu(name: str) -> nn.Module:
    return build(name).cuda()


def assert_same(ours: object, theirs: object, *, exactly: bool = True) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0} if exactly else {"rtol": 1e-3, "atol": 1e-3}
    for y, z in zip(leaves(ours), leaves(theirs), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
        torch.testing.assert_close(y, z, **tolerance)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", BUILDERS)
def test_replays_have_the_bits_of_the_plan(name: str, dtype: torch.dtype | None) -> None:
    model = on_gpu(name)
    converted, plain = fastconv.convert(model, dtype=dtype), fastconv.convert(model, dtype=dtype)
    plain.region.store.graphs_allowed = False
    with torch.inference_mode():
        for shape in SHAPES:
            for seed in range(4):
                x = image(shape, seed)
                assert_same(converted(x), plain(x))
            graph = plan_of(converted).graph
            assert graph is not None
            assert graph.is_captured or "no more than a replay has" in str(graph.why)
    assert "CUDA graph" in str(fastconv.explain(converted))


@pytest.mark.parametrize("name", BUILDERS)
def test_replays_follow_torch(name: str) -> None:
    model = on_gpu(name)
    with torch.inference_mode(), in_full_precision():
        converted = fastconv.convert(model)
        for seed in range(3):
            x = image(SHAPES[0], seed)
            assert_same(converted(x), model(x), exactly=False)


def test_streams_do_not_meet_in_a_graphs_memory() -> None:
    """Results of one stream stay while another one replays; nothing but events orders them."""
    model = on_gpu("inception")
    converted, steps = fastconv.convert(model), step_by_step(model)
    with torch.inference_mode():
        inputs = [image(SHAPES[i % 2], i) for i in range(12)]
        expected = [steps(x) for x in inputs]
        for x in inputs[:2] * 2:
            converted(x)
        streams = [torch.cuda.Stream() for _ in range(3)]
        torch.cuda.synchronize()
        outputs = []
        for i, x in enumerate(inputs):
            with torch.cuda.stream(streams[i % 3]):
                torch.cuda._sleep(2_000_000 * (i % 3))
                outputs.append(converted(x))
        torch.cuda.synchronize()
    assert_same(outputs, expected)


@pytest.mark.parametrize("graphs", [False, True], ids=["plan", "graph"])
def test_weights_of_another_stream_are_waited_for(graphs: bool) -> None:
    """Folded behind a long kernel, they are not there yet when the other stream's call is made."""
    model = on_gpu("mobile")
    converted = fastconv.convert(model)
    converted.region.store.graphs_allowed = graphs
    x = image(SHAPES[0])
    streams = [torch.cuda.Stream() for _ in range(2)]
    with torch.no_grad():
        for _ in range(3):
            expected = step_by_step(model)(x)
            torch.cuda.synchronize()
            with torch.cuda.stream(streams[0]):
                torch.cuda._sleep(50_000_000)
                first = converted(x)
            with torch.cuda.stream(streams[1]):
                second = converted(x)
            torch.cuda.synchronize()
            assert_same([first, second], [expected] * 2)
            model.stem[0].weight.mul_(1.5)


def test_threads_with_streams_of_their_own() -> None:
    model = on_gpu("shuffle")
    converted, steps = fastconv.convert(model), step_by_step(model)
    with torch.inference_mode():
        inputs = [image(SHAPES[i % 2], i) for i in range(4)]
        expected = [steps(x) for x in inputs]
    torch.cuda.synchronize()

    def work(thread: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            for i in range(20):
                which = (thread + i) % len(inputs)
                assert torch.equal(converted(inputs[which]), expected[which]), (thread, i)

    at_once(work, 4)


def test_changed_weights_and_freed_memory() -> None:
    model = on_gpu("mobile")
    converted = fastconv.convert(model)
    x = image((16, 3, 64, 64))
    with torch.no_grad(), in_full_precision():
        for _ in range(4):
            for _ in range(3):
                assert_same(converted(x), model(x), exactly=False)
            model.stem[0].weight.mul_(1.5)
            converted(x)
        assert converted.memory().arenas > 0
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        del converted
        gc.collect()
        assert torch.cuda.memory_allocated() < held


UNCAPTURABLE: dict[str, Callable[[nn.Conv2d, Tensor], Tensor]] = {
    "a mask": lambda c, x: c(x)[c(x) > 0].sum() + c(x),
    "a mask's places": lambda c, x: torch.index_put(c(x), (c(x) > 0,), torch.zeros(1, device="cuda")),
    "an inverse": lambda c, x: c(x) + torch.linalg.inv(c(x)) * 1e-3,
    "the host": lambda c, x: c(x) + torch.cumsum(c(x), 1).cpu().sum().to(x.device),
    "a number": lambda c, x: c(x) * torch.cumsum(c(x), 1).max().item(),
}


class Forward(nn.Module):
    def __init__(self, forward: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.what = nn.Conv2d(3, 8, 3), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self.c, x)


@pytest.mark.parametrize("what", UNCAPTURABLE)
def test_what_waits_for_the_host_runs_segment_by_segment(what: str) -> None:
    model = Forward(UNCAPTURABLE[what]).cuda().eval()
    converted, fine = fastconv.convert(model), fastconv.convert(on_gpu("inception"))
    with torch.inference_mode(), in_full_precision():
        for seed in range(3):
            x = image(SHAPES[0], seed)
            assert_same(converted(x), model(x), exactly=False)
        graph = plan_of(converted).graph
        assert graph is not None
        assert graph.why is not None
        for _ in range(2):  # torch can capture as before
            fine(image(SHAPES[0]))
        assert plan_of(fine).graph.is_captured  # type: ignore[union-attr]


class Attributes(nn.Module):
    """`.cuda()` moves neither of the two plain tensors; torch passes the number with each launch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c = nn.Conv2d(3, 8, 3)
        self.number, self.slope = torch.tensor(0.5), torch.randn(8, 1, 1, device="cuda")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cumsum(self.c(x), 2) * self.number * self.slope
        return y


def test_plain_tensors_of_the_model_may_change() -> None:
    model = Attributes().cuda().eval()
    converted = fastconv.convert(model)

    def move() -> None:
        model.slope.data = torch.randn(8, 1, 1, device="cuda")

    with torch.no_grad(), in_full_precision():
        for change in (lambda: None, lambda: model.number.fill_(3), lambda: model.slope.mul_(2), move):
            change()
            for seed in range(3):
                x = image(SHAPES[0], seed)
                assert_same(converted(x), model(x), exactly=False)
            assert plan_of(converted).graph.is_captured  # type: ignore[union-attr]


def test_random_numbers_are_drawn_once() -> None:
    """Planning, and looking for what cannot be captured, run more often than the call."""
    model = Forward(lambda c, x: torch.dropout(c(x), 0.5, True)).cuda().eval()
    x = image(SHAPES[0])
    with torch.no_grad(), in_full_precision():
        before = torch.cuda.get_rng_state()
        converted = fastconv.convert(model, x)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        for _ in range(3):
            results, states = [], []
            for call in (converted, model):
                torch.cuda.manual_seed(3)
                results.append(call(x))
                states.append(torch.cuda.get_rng_state())
            assert_same(results[0], results[1], exactly=False)
            assert torch.equal(*states)


def test_inside_somebody_elses_capture_the_kernels_are_theirs() -> None:
    model = on_gpu("mobile")
    converted, steps = fastconv.convert(model), step_by_step(model)
    x = image(SHAPES[0])
    with torch.inference_mode():
        for _ in range(3):
            converted(x)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            converted(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = converted(x)
        x.mul_(-0.5)
        graph.replay()
        assert_same(y, steps(x))
        assert_same(converted(x), steps(x))


def test_allow_tf32_is_part_of_the_choice() -> None:
    model = nn.Conv2d(64, 64, 3, padding=1).cuda().eval()
    converted = fastconv.convert(model)
    x = image((1, 64, 28, 28))
    before = torch.backends.cudnn.conv.fp32_precision
    kernels = []
    try:
        for precision in ("ieee", "tf32"):
            torch.backends.cudnn.conv.fp32_precision = precision
            with torch.inference_mode():
                for _ in range(3):
                    converted(x)
            kernels.append(plan_of(converted).runs[0].plan.kernels)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert kernels[0] != kernels[1]
