"""Memory: plans come and go with shapes, arenas are shared, weights are held once."""

from __future__ import annotations

import gc

import pytest
import torch
from planning import build, plan_of
from torch import nn

import fastconv
from fastconv import _C
from fastconv.convert.plan import cache


def test_blocks_never_overlap_while_both_live() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        count = 40
        sizes = torch.randint(1, 5000, (count,), generator=generator).tolist()
        first = torch.randint(0, 60, (count,), generator=generator).tolist()
        blocks = [(size, at, at + length) for size, at, length in zip(
            sizes, first, torch.randint(0, 12, (count,), generator=generator).tolist(), strict=True)]  # fmt: skip
        offsets, total = _C.place_blocks(blocks)
        for i, (bytes_i, first_i, last_i) in enumerate(blocks):
            assert offsets[i] % 64 == 0
            assert offsets[i] + bytes_i <= total
            for j, (bytes_j, first_j, last_j) in enumerate(blocks[:i]):
                if first_i <= last_j and first_j <= last_i:
                    assert offsets[i] + bytes_i <= offsets[j] or offsets[j] + bytes_j <= offsets[i]
        live = max(sum(b for b, f, t in blocks if f <= step <= t) for step in range(80))
        assert total <= 1.5 * live + 64 * count


def test_weights_are_held_once() -> None:
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)) for _ in range(4))
    ).eval()
    converted = fastconv.convert(model, torch.randn(1, 64, 8, 8))
    memory = converted.memory()
    weights = 4 * 64 * 64 * 9 * 4
    assert memory.packed >= weights
    assert memory.folded < weights / 16  # biases
    assert memory.plans == 1
    assert "packed weights" in str(memory)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)  # the step-by-step way makes them again
    torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)


def test_arenas_are_shared_between_shapes_and_shrink() -> None:
    converted = fastconv.convert(build("inception"))
    with torch.no_grad():
        converted(torch.randn(4, 3, 32, 32))
        large = converted.memory().arenas
        converted(torch.randn(4, 3, 32, 32))
        after_large = converted.memory().arenas
        for size in range(8, 24):
            converted(torch.randn(1, 3, size, size))
            converted(torch.randn(1, 3, size, size))
        assert after_large >= large
        assert converted.memory().arenas <= 1.2 * after_large  # scratch may differ
        assert converted.region.store.arenas.count == 1


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_PLANS", 3)
    converted = fastconv.convert(build("inception"))
    with torch.no_grad():
        converted(torch.randn(4, 3, 64, 64))
        converted(torch.randn(4, 3, 64, 64))
        large = converted.memory().arenas
        for size in (8, 9, 10, 11):
            for _ in range(2):
                converted(torch.randn(1, 3, size, size))
        memory = converted.memory()
    assert memory.plans == 3
    assert memory.arenas < large / 2  # that of the plan that went went with it


def test_arenas_go_with_the_conversion() -> None:
    converted = fastconv.convert(build("dense"), torch.randn(1, 3, 16, 16))
    pool = converted.region.store.arenas
    assert pool.count == 1
    plan = plan_of(converted)
    del converted
    gc.collect()
    assert pool.count == 1  # the plan is still in hand
    del plan
    gc.collect()
    assert (pool.count, pool.bytes) == (0, 0)


def test_two_hundred_forwards_over_twenty_shapes_keep_memory_flat() -> None:
    converted = fastconv.convert(build("dense"))
    with torch.no_grad():
        inputs = [torch.randn(1 + i % 3, 3, 12 + i, 30 - i) for i in range(20)]
        for x in inputs * 2:
            converted(x)
        held = converted.memory()
        for x in inputs * 10:
            converted(x)
        assert converted.memory() == held
    assert held.plans == 20
    assert held.arenas <= 2 * max(plan.arena_bytes for plan in converted.region.last._plans._plans.values()) + 2**21


def test_conversion_with_examples_plans_and_touches() -> None:
    x = torch.randn(2, 3, 16, 16)
    model = build("dense")
    state = torch.get_rng_state()
    converted = fastconv.convert(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert converted.memory().plans == 1
    assert converted.memory().arenas > 0
    made = plan_of(converted)
    with torch.no_grad():
        converted(x)
    assert plan_of(converted) is made
