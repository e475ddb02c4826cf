"""A planned call: the same outputs as step by step, in every layout and at every size, now and at the next call."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from planning import BUILDERS, build, leaves, plan_of, step_by_step
from threads import at_once
from torch import Tensor, nn

import fastconv

SHAPES = ((2, 3, 16, 16), (1, 3, 24, 20), (3, 3, 17, 13))


def assert_same(ours: object, theirs: object) -> None:
    for y, z in zip(leaves(ours), leaves(theirs), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
        torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5, equal_nan=True)


def assert_equal(ours: object, theirs: object) -> None:
    for y, z in zip(leaves(ours), leaves(theirs), strict=True):
        assert torch.equal(y, z)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", BUILDERS)
def test_same_as_the_model_and_as_step_by_step(name: str, layout: torch.memory_format) -> None:
    model = build(name)
    converted, steps = fastconv.convert(model), step_by_step(model)
    with torch.no_grad():
        for shape in SHAPES:
            x = torch.randn(shape).contiguous(memory_format=layout)
            first, again, third = converted(x), converted(x), converted(x)
            assert plan_of(converted).kernel_count > 0
            assert_same(first, model(x))
            assert_same(first, steps(x))
            assert_equal(first, again)
            assert_equal(first, third)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "part_left"])
def test_all_of_a_network_is_one_segment(name: str) -> None:
    converted = fastconv.convert(build(name), torch.randn(SHAPES[0]))
    plan = plan_of(converted)
    assert not plan.left
    assert len(plan.runs) == 1


def test_what_torch_computes_runs_between_segments() -> None:
    converted = fastconv.convert(build("part_left"), torch.randn(SHAPES[0]))
    plan = plan_of(converted)
    assert plan.left[0].node.name == "cumsum"
    assert len(plan.runs) == 2


def test_concatenations_copy_nothing() -> None:
    x = torch.randn(SHAPES[0]).contiguous(memory_format=torch.channels_last)  # no other layout to return to
    for name in ("dense", "growing", "inception"):
        plan = plan_of(fastconv.convert(build(name), x))
        assert "copy" not in [op for run in plan.runs for op, _ in run.plan.kernels]


def test_a_growing_list_of_features_is_one_buffer() -> None:
    x = torch.randn(1, 3, 32, 32)
    small, large = (plan_of(fastconv.convert(build_dense(layers), x)) for layers in (4, 8))
    pixel = 32 * 32 * 4
    # Four layers more are 16 channels more, in the features and in one normalised copy of them.
    assert large.arena_bytes - small.arena_bytes <= 2 * 16 * pixel + 4096


def build_dense(layers: int) -> nn.Module:
    from planning import Dense

    return Dense(layers).eval()


def test_the_arena_is_smaller_than_all_activations() -> None:
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(6))).eval()
    plan = plan_of(fastconv.convert(model, torch.randn(1, 3, 32, 32)))
    assert plan.arena_bytes == 2 * 8 * 32 * 32 * 4  # one to read, one to write; the last one is the output


def test_outputs_belong_to_the_caller() -> None:
    converted = fastconv.convert(build("dense"))
    x = torch.randn(SHAPES[0])
    with torch.no_grad():
        first = converted(x)
        kept = first.clone()
        second = converted(torch.randn(SHAPES[0]))
        assert first.data_ptr() != second.data_ptr()
        second.zero_()
        assert torch.equal(first, kept)
        assert torch.equal(converted(x), kept)


def test_inputs_are_never_written() -> None:
    for name in BUILDERS:
        converted = fastconv.convert(build(name))
        x = torch.randn(SHAPES[0])
        before = x.clone()
        with torch.no_grad():
            for _ in range(3):
                converted(x)
        assert torch.equal(x, before)


def test_strided_inputs() -> None:
    model = build("inception")
    converted = fastconv.convert(model)
    wide = torch.randn(2, 5, 20, 40)
    with torch.no_grad():
        for x in (wide[:, 1:4], wide[:, :3, ::2, ::2], wide[:, :3].transpose(2, 3), wide[:1, :1].expand(2, 3, 20, 40)):
            for _ in range(2):
                assert_same(converted(x), model(x))


@pytest.mark.parametrize("name", ["inception", "dense"])
def test_zero_batch_and_one_image(name: str) -> None:
    model = build(name)
    converted = fastconv.convert(model)
    with torch.no_grad():
        for _ in range(2):
            assert_same(converted(torch.randn(0, 3, 16, 16)), model(torch.randn(0, 3, 16, 16)))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    image = torch.randn(3, 12, 12)
    converted = fastconv.convert(plain)
    with torch.no_grad():
        for _ in range(2):
            assert_same(converted(image), plain(image))


def test_gradients_to_inputs_are_recorded() -> None:
    model = build("gated")
    converted = fastconv.convert(model)
    x = torch.randn(SHAPES[0])
    with torch.no_grad():
        converted(x)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    converted(ours).square().sum().backward()
    model(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_copies_and_pickles_plan_anew() -> None:
    model = build("dense")
    converted = fastconv.convert(model, torch.randn(SHAPES[0]))
    x = torch.randn(SHAPES[0])
    with torch.no_grad():
        expected = converted(x)
        assert torch.equal(copy.deepcopy(converted)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)


def test_eight_threads_at_once_are_bit_identical() -> None:
    converted = fastconv.convert(build("dense"))
    inputs = [torch.randn(shape) for shape in SHAPES]
    with torch.no_grad():
        expected = [converted(x) for x in inputs]
    fresh = fastconv.convert(build("dense"))  # planning at the same time is part of it

    def work(thread: int) -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            for i in range(30):
                which = (thread + i) % len(inputs)
                assert torch.equal(fresh(inputs[which]), expected[which]), (thread, i)

    at_once(work, 8)
    assert fresh.region.store.arenas.count <= 8


def test_the_number_of_threads_changes_nothing() -> None:
    converted = fastconv.convert(build("mobile"))
    x = torch.randn(2, 3, 40, 40)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            outputs: list[Tensor] = []
            for threads in (1, 2, 4, 1):
                torch.set_num_threads(threads)
                outputs.append(converted(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, outputs[0]) for y in outputs)
