"""Plans as graphs, with a stand-in for the GPU's: when they are captured, and what a replay reads and gives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from planning import BUILDERS, assert_equal, build, leaves, plan_of, step_by_step
from stand_in import StandIn
from test_fallbacks import Between
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv.convert.plan import graphed

pytestmark = [
    pytest.mark.usefixtures("graphs"),
    pytest.mark.skipif(
        fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
    ),
]
SHAPES = ((2, 3, 10, 10), (1, 3, 9, 12))


@pytest.mark.parametrize("name", BUILDERS)
def test_replays_follow_their_inputs(name: str, graphs: list[StandIn]) -> None:
    model = build(name)
    converted, plain = fastconv.convert(model), fastconv.convert(model)
    plain.region.store.graphs_allowed = False
    for shape in SHAPES:
        for _ in range(4):
            x = torch.randn(shape)
            assert_equal(converted(x), plain(x))
    assert [graph.replays for graph in graphs[0].graphs] == [3, 3]  # the first call of a shape plans
    assert "CUDA graph of " in str(fastconv.explain(converted))


def test_results_stay_as_they_are_and_inputs_are_not_written(graphs: list[StandIn]) -> None:
    converted = fastconv.convert(build("dense"))
    inputs = [torch.randn(SHAPES[0]) for _ in range(4)]
    before = [x.clone() for x in inputs]
    outputs = [converted(x) for x in inputs]
    kept = [y.clone() for y in outputs]
    outputs[-1].zero_()
    converted(inputs[0])
    assert graphs[0].graphs[0].replays == 4
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(outputs[:-1], kept[:-1], strict=True))
    assert len({y.data_ptr() for y in outputs}) == 4


def test_convert_with_an_example_captures(graphs: list[StandIn]) -> None:
    converted = fastconv.convert(build("mobile"), torch.randn(SHAPES[0]))
    assert len(graphs[0].graphs) == 1
    plan = plan_of(converted)
    assert f"CUDA graph of {plan.kernel_count} kernels\n" in f"{fastconv.explain(converted)}\n"


def test_strided_inputs(graphs: list[StandIn]) -> None:
    model = build("inception")
    converted = fastconv.convert(model)
    wide = torch.randn(2, 5, 20, 24)
    for x in (wide[:, 1:4], wide[:, :3, ::2, ::2], wide[:, :3].transpose(2, 3), wide[:1, :1].expand(2, 3, 20, 24)):
        for _ in range(3):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(graphs[0].graphs) == 4


def test_what_torch_computes_is_captured_too(graphs: list[StandIn]) -> None:
    model = build("part_left")
    converted = fastconv.convert(model, torch.randn(SHAPES[0]))
    for _ in range(2):
        x = torch.randn(SHAPES[0])
        for y, z in zip(leaves(converted(x)), leaves(model(x)), strict=True):
            torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)
    count = plan_of(converted).kernel_count
    said = f"CUDA graph of {count} kernels and of what torch computes in between"
    assert said in str(fastconv.explain(converted))
    assert graphs[0].graphs[0].replays == 3


def test_gaps_of_inputs_are_not_copied(graphs: list[StandIn]) -> None:
    converted, wide = fastconv.convert(build("inception")), torch.randn(2, 192, 10, 10)
    x = wide[:, ::64]
    converted(x)
    converted(x)
    wide[:, 1::64] = float("nan")
    (mine,) = plan_of(converted).graph._replay._inputs  # type: ignore[union-attr]
    gaps = mine.as_strided((2, 2, 10, 10), mine.stride(), 100)
    gaps.fill_(7)
    assert_equal(converted(x), step_by_step(build("inception"))(x.clone()))
    assert (gaps == 7).all()
    for overlapping in (wide[:1, ::64].expand(2, 3, 10, 10), wide[:, :1].expand(2, 3, 10, 10)[:, :, ::2]):
        assert not graphed._has_gaps(overlapping)


OUTPUTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "the input itself": lambda m, x: (x, m.c(x)),
    "a part of the input": lambda m, x: (x[:, :2], m.c(x)),
    "one tensor twice": lambda m, x: (y := m.c(x), y),
    "a tensor and a view of it": lambda m, x: {"whole": (y := m.c(x)), "part": y[:, 1:3]},
    "a number": lambda m, x: (m.c(x), 3),
    "several of torch's": lambda m, x: (m.d(m.c(x)), *torch.sort(m.c(x), 1)),
    "an expanded one": lambda m, x: m.c(x)[:, :1].expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_of_all_kinds(what: str, graphs: list[StandIn]) -> None:
    model = Between(OUTPUTS[what]).eval()
    converted, steps = fastconv.convert(model), step_by_step(model)
    for _ in range(3):
        x = torch.randn(1, 4, 8, 8)
        ours, theirs = converted(x), steps(x)
        tensors = [y for y in leaves(ours) if isinstance(y, Tensor)]
        assert_equal(tensors, [y for y in leaves(theirs) if isinstance(y, Tensor)])
        assert torch.utils._pytree.tree_structure(ours) == torch.utils._pytree.tree_structure(theirs)
        if "input" in what:
            assert tensors[0].data_ptr() == x.data_ptr()
        if what in ("one tensor twice", "a tensor and a view of it"):
            assert len({y.untyped_storage().data_ptr() for y in tensors}) == 1
    assert len(graphs[0].graphs) == 1


def test_changed_weights_make_another_graph(graphs: list[StandIn]) -> None:
    model = build("inception")
    converted = fastconv.convert(model)
    x = torch.randn(SHAPES[0])
    for count in (1, 2):
        for _ in range(3):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
        assert len(graphs[0].graphs) == count
        gone = weakref.ref(graphs[0].graphs[-1])
        model.b.weight.mul_(2)
    graphs[0].graphs.clear()
    converted(x)
    gc.collect()
    assert gone() is None  # type: ignore[possibly-undefined]


class Normed(nn.Module):
    """A module left to torch has parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.cumsum(self.norm(self.a(x)), 2) / self.scale)
        return y


def test_parameters_of_what_is_left_to_torch(graphs: list[StandIn]) -> None:
    model = Normed().eval()
    converted = fastconv.convert(model)

    def replace() -> None:
        model.norm.weight = nn.Parameter(torch.randn(4))

    def move() -> None:
        model.norm.bias.data = torch.randn(4)

    def other() -> None:
        model.scale = nn.Parameter(torch.randn(4, 1, 1))

    for change, count in (
        (lambda: None, 1),
        (lambda: model.norm.weight.mul_(3), 1),
        (replace, 2),
        (move, 3),
        (other, 4),
    ):
        change()
        for _ in range(3):
            x = torch.randn(SHAPES[0])
            torch.testing.assert_close(converted(x), model(x), rtol=1e-3, atol=1e-3)
        assert len(graphs[0].graphs) == count


class Attributes(nn.Module):
    """Tensors that are neither parameters nor buffers: `.cuda()` leaves them where they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.number, self.slope = torch.tensor(0.5), torch.randn(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.cumsum(self.a(x), 2) * self.number * self.slope * torch.tensor(2.0))
        return y


def test_plain_attributes_of_what_is_left_to_torch(graphs: list[StandIn]) -> None:
    model = Attributes().eval()
    converted = fastconv.convert(model)

    def move() -> None:
        model.slope.data = torch.randn(4, 1, 1)

    for change, count in ((lambda: None, 1), (lambda: model.slope.mul_(3), 1), (move, 2)):
        change()
        for _ in range(3):
            x = torch.randn(SHAPES[0])
            torch.testing.assert_close(converted(x), model(x), rtol=1e-3, atol=1e-3)
        assert len(graphs[0].graphs) == count


def test_numbers_of_the_host_are_known_by_their_values() -> None:
    """To the emulated GPU the host's memory is its own; so it is asked what another device would have to know."""
    model = Attributes().eval()
    plan = plan_of(fastconv.convert(model, torch.randn(SHAPES[0])))
    here, elsewhere = (graphed._TensorsLeft(plan.steps, torch.device(kind)) for kind in ("cpu", "meta"))
    assert here.unchanged()
    assert elsewhere.unchanged()
    model.number.fill_(3)
    assert here.unchanged()
    assert not elsewhere.unchanged()


def test_inference_mode_and_back(graphs: list[StandIn]) -> None:
    model = build("inception")
    converted = fastconv.convert(model)
    x = torch.randn(SHAPES[0])
    for inference in (True, True, False, True, False):
        with torch.inference_mode(inference):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
    assert graphs[0].graphs[0].replays == 4


def test_threads_take_turns(graphs: list[StandIn]) -> None:
    converted = fastconv.convert(build("gated"))
    inputs = [torch.randn(SHAPES[i % 2]) for i in range(4)]
    expected = [converted(x) for x in inputs]

    def work(thread: int) -> None:
        with fastconv.backend("cuda_emulated"), torch.no_grad():
            for i in range(5):
                which = (thread + i) % len(inputs)
                assert torch.equal(converted(inputs[which]), expected[which]), (thread, i)

    at_once(work, 4)
    assert len(graphs[0].graphs) == 2  # one for each shape, whoever came first
