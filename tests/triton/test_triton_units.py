"""The parts of the Triton backend that need no kernel: phases, axes, tiles, the choice of an algorithm."""

from __future__ import annotations

import itertools

import pytest
import torch

import fastconv
from fastconv import backends, functional, introspection
from fastconv.triton import axes, launch, phases, tiles
from fastconv.triton.algorithms import TABLES, Problem, select

EXTENTS = list(itertools.product((1, 8), (1, 3, 5), (1, 2, 3, 4), (0, 3), (1, 2, 3)))


@pytest.mark.parametrize(("extent", "taps", "stride", "padding", "dilation"), EXTENTS)
def test_transposed_phases(extent: int, taps: int, stride: int, padding: int, dilation: int) -> None:
    """Every (output, input, tap) of the definition, h = p * stride - padding + r * dilation, exactly once."""
    wanted = {
        (h, (h + padding - r * dilation) // stride, r)
        for h in range(extent)
        for r in range(taps)
        if (h + padding - r * dilation) % stride == 0
    }
    found = phases.transposed(extent, taps, stride, padding, dilation)
    reads = [
        (phase.first + phase.step * i, i * phase.mul + phase.off + j * phase.tap, r)
        for phase in found
        for i in range(phase.covers(extent))
        for j, r in enumerate(range(phase.tap_first, taps, phase.tap_step))
    ]
    assert sorted(reads) == sorted(wanted)
    assert phases.are_complete(found, extent) == (len({h for h, _, _ in wanted}) == extent)


@pytest.mark.parametrize(("extent", "taps", "stride", "padding", "dilation"), EXTENTS[::5])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_upsampled_phases(extent: int, taps: int, stride: int, padding: int, dilation: int, factor: int) -> None:
    for phase in phases.upsampled(extent, taps, factor, stride, padding, dilation):
        for i, p in enumerate(range(phase.first, extent, phase.step)):
            for r in range(taps):
                j = (phase.low + r * dilation) // factor
                assert 0 <= j < phase.taps
                assert i * phase.mul + phase.off + j == (p * stride - padding + r * dilation) // factor


def test_a_stride_of_millions_has_as_many_phases_as_taps() -> None:
    assert len(phases.transposed(10**9, 3, 10**8, 1, 1)) == 3


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.mT, lambda x: x[::2, :, 1:], lambda x: x[:, :1]])
def test_merged_axes_reach_the_same_elements(view) -> None:  # type: ignore[no-untyped-def]
    x = view(torch.arange(4 * 3 * 6 * 5).view(4, 3, 6, 5))
    y = torch.empty(x.shape, dtype=x.dtype)
    sizes, (from_x, from_y) = axes.merged(x.shape, [x.stride(), y.stride()])
    y.as_strided(sizes, from_y).copy_(x.as_strided(sizes, from_x))
    assert torch.equal(x, y)


def test_a_dense_tensor_of_any_format_is_one_axis() -> None:
    for x in (torch.empty(2, 3, 4, 5), torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        sizes, (strides,) = axes.merged(x.shape, [x.stride()])
        assert (sizes, strides) == ((120,), (1,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("interpreted", [False, True])
def test_tiles_are_powers_of_two_that_a_dot_takes(dtype: torch.dtype, interpreted: bool) -> None:
    for m, n, k in itertools.product((1, 17, 200, 10**6), (1, 33, 1000), (1, 40, 5000)):
        tile = tiles.product_tile(m, n, k, dtype, interpreted)
        assert all(side & (side - 1) == 0 for side in tile[:3]) and min(tile[:2]) >= 16
        assert tile.k >= 16 or dtype is torch.float64


@pytest.mark.parametrize(("length", "block"), [(0, 16), (1, 16), (1000, 16), (10**6, 64)])
def test_runs_cover_a_reduction_in_whole_blocks(length: int, block: int) -> None:
    runs, run = tiles.splits(3, length, block)
    assert runs * run >= length and run % block == 0 and (runs - 1) * run <= length


def test_wide_offsets_are_noticed() -> None:
    x = torch.empty(2, 2, device="meta")
    assert not launch.is_wide(x) and launch.is_wide(x, reach=1 << 31)
    assert launch.is_wide(torch.empty(1 << 16, 1 << 16, device="meta"))
    assert launch.is_wide(x.as_strided((2, 2), (1 << 31, 1)))


def test_explain_gives_the_reasons_that_a_forced_algorithm_fails_with() -> None:
    shown = str(fastconv.explain("conv2d", "mb1ic64ih9oc8kh3", backend="triton"))
    assert "* implicit_gemm" in shown and "adds up 64 input channels a group" in shown
    with pytest.raises(NotImplementedError, match="adds up 64 input channels a group"):
        select("conv2d", Problem(C=64, K=8), "depthwise")
    with pytest.raises(ValueError, match=r"^conv2d: expected algo to be one of depthwise, implicit_gemm, but got 'x'$"):
        select("conv2d", Problem(), "x")
    with pytest.raises(ValueError, match="explain"):
        fastconv.explain("conv2d", backend="triton", c=3)


def test_every_table_has_a_row_that_always_serves() -> None:
    """Some problem or other must not be left without an algorithm."""
    assert set(TABLES) == set(introspection.OPERATORS)
    for op in TABLES:
        for groups, channels in itertools.product((1, 2, 64), (0, 64, 640)):
            select(op, Problem(C=channels, K=channels, groups=groups, scale_h=100), "")


def test_cuda_tensors_go_to_triton_where_there_are_no_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for left, expected in ((True, "triton"), (False, "cuda")):
        monkeypatch.setattr(backends, "_cuda_is_left_to_triton", lambda left=left: left)
        assert backends.resolve(gpu) == expected
    if backends.why_unavailable("triton_interpreted") is None:
        with fastconv.backend("triton_interpreted"):
            assert backends.resolve(gpu) == "triton" and backends.resolve(torch.device("cpu")) == "triton_interpreted"


def test_without_triton_the_backend_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match=r"pip install 'fastconv\[triton\]'"), fastconv.backend("triton"):
        pass


def test_triton_does_not_take_tensors_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_unavailable", lambda name: None)
    with fastconv.backend("triton"), pytest.raises(NotImplementedError, match="does not take tensors of the CPU"):
        functional.relu(torch.ones(3))
