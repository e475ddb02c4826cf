"""Pooling of NCHW rows 16 bytes at a time: the same bits and places as torch's, and every sector used whole.

The rows kernel serves windows of 2 and 3 columns at stride 2 whose outputs are half as many as the columns; what it
does not serve goes by elements. A view that begins one element later is misaligned, and so goes by elements too.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from emulator_build import build_library
from test_emulator_counters import read_table

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

FLOAT, HALF, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
INFINITY, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _backend():
    with fastconv.backend("cuda_emulated"):
        yield


def image(shape: tuple[int, ...], dtype: torch.dtype, ties: bool = True) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2
    return (x.round() if ties else x).to(dtype)


def kernels_of(call: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """The result, and what the emulator counted."""
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    result = call()
    rows = read_table(library)
    library.fastconv_emulator_clear_counters()
    return result, rows


def by_rows(rows: list[Any]) -> bool:
    return any("pool_rows.cuh" in row.line for row in rows)


MAXIMA = {
    "stem": ((2, 3, 16, 32), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "many_blocks": ((3, 11, 20, 48), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "ceil": ((2, 3, 14, 16), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "halves": ((2, 5, 10, 24), {"kernel_size": 2, "stride": 2}),
    "rows_of_a_thread": ((4, 7, 9, 8), {"kernel_size": (3, 3), "stride": 2, "padding": 1}),
    "tall": ((1, 3, 17, 16), {"kernel_size": (7, 3), "stride": (3, 2), "padding": (3, 1)}),
    "every_row": ((1, 3, 9, 16), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}),
    "dilated_rows": ((2, 2, 13, 40), {"kernel_size": (3, 2), "stride": 2, "dilation": (3, 1), "padding": (1, 0)}),
    "one_row": ((1, 2, 3, 64), {"kernel_size": 3, "stride": 2, "padding": (0, 1)}),
}


@pytest.mark.parametrize("dtype", [FLOAT, HALF, BFLOAT16], ids=str)
@pytest.mark.parametrize(("shape", "options"), MAXIMA.values(), ids=MAXIMA)
def test_maxima_and_their_places(
    shape: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = image(shape, dtype)
    y, rows = kernels_of(lambda: functional.max_pool2d(x, **options), monkeypatch)
    assert by_rows(rows)
    expected, places = torch_f.max_pool2d(x, **options, return_indices=True)
    assert torch.equal(y, expected)
    both, rows = kernels_of(lambda: functional.max_pool2d(x, **options, return_indices=True), monkeypatch)
    assert by_rows(rows)
    assert torch.equal(both[0], expected) and torch.equal(both[1], places)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("name", ["many_blocks", "ceil", "tall"])
def test_any_schedule(name: str, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    shape, options = MAXIMA[name]
    x = image(shape, HALF)
    assert torch.equal(functional.max_pool2d(x, **options), torch_f.max_pool2d(x, **options))


@pytest.mark.parametrize("dtype", [FLOAT, HALF, BFLOAT16], ids=str)
@pytest.mark.parametrize("special", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(("shape", "options"), MAXIMA.values(), ids=MAXIMA)
def test_special_values(shape: tuple[int, ...], options: dict[str, Any], special: float, dtype: torch.dtype) -> None:
    """In every third place, and in all of one image: the last NaN and the first of equal pixels win."""
    x = image(shape, dtype)
    x.view(-1)[::3] = special
    x[0, 1] = special
    y, indices = functional.max_pool2d(x, **options, return_indices=True)
    expected, places = torch_f.max_pool2d(x, **options, return_indices=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(indices, places)
    alone = functional.max_pool2d(x, **options)
    torch.testing.assert_close(alone, expected, rtol=0, atol=0, equal_nan=True)


AVERAGES = {
    "halves": {"kernel_size": 2},
    "three_rows": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    "without_padding": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "count_include_pad": False},
    "divisor": {"kernel_size": 2, "divisor_override": 3},
}


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
def test_averages_are_those_by_elements(
    options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: the order of the additions is the same."""
    shape = (2, 5, 12, 32)
    shifted = image((2 * 5 * 12 * 32 + 1,), dtype, ties=False)[1:].view(shape)
    x = shifted.clone()
    y, rows = kernels_of(lambda: functional.avg_pool2d(x, **options), monkeypatch)
    assert by_rows(rows)
    by_elements, rows = kernels_of(lambda: functional.avg_pool2d(shifted, **options), monkeypatch)
    assert not by_rows(rows) and torch.equal(y, by_elements)
    truth = torch_f.avg_pool2d(x.double(), **options)
    torch.testing.assert_close(y.double(), truth, rtol=torch.finfo(dtype).eps, atol=1e-6)


NOT_SERVED = {
    "odd_width": ((1, 3, 9, 17), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "part_of_a_pack": ((1, 3, 8, 14), {"kernel_size": 2}),
    "lone_last_window": ((1, 3, 8, 16), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "border_without_a_window": ((1, 3, 8, 16), {"kernel_size": 3, "stride": 2}),
    "padded_pairs": ((1, 3, 8, 16), {"kernel_size": 2, "stride": 2, "padding": 1}),
    "dilated_columns": ((1, 3, 8, 16), {"kernel_size": 2, "stride": 2, "dilation": 2, "padding": 1}),
    "stride_of_one": ((1, 3, 8, 16), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "wide": ((1, 3, 8, 16), {"kernel_size": 4, "stride": 2, "padding": 1}),
}


@pytest.mark.parametrize(("shape", "options"), NOT_SERVED.values(), ids=NOT_SERVED)
def test_others_go_by_elements(
    shape: tuple[int, ...], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = image(shape, HALF)
    y, rows = kernels_of(lambda: functional.max_pool2d(x, **options), monkeypatch)
    assert not by_rows(rows) and torch.equal(y, torch_f.max_pool2d(x, **options))


@pytest.mark.parametrize("view", ["channels", "columns"])
def test_views(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = image((2, 9, 18, 40), HALF)
    x = base[:, ::2, 1:, :32] if view == "channels" else base[..., 8:]
    y, rows = kernels_of(lambda: functional.max_pool2d(x, 3, 2, 1), monkeypatch)
    assert by_rows(rows) and torch.equal(y, torch_f.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT16], ids=str)
def test_sectors(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block has the whole image: windows of two rows read each sector once; those of three read every second row
    twice, and one element a warp where a row goes on in the next."""
    shape = (1, 1, 64, 32) if dtype == FLOAT else (1, 2, 64, 32)
    x = image(shape, dtype)
    sectors = x.numel() * x.element_size() // 32
    row = shape[3] * x.element_size() // 32
    y, rows = kernels_of(lambda: functional.max_pool2d(x, 2), monkeypatch)
    read = {r.access: (r.units, r.minimum) for r in rows}
    assert read == {"global read": (sectors, sectors), "global write": (sectors // 4, sectors // 4)}
    y, rows = kernels_of(lambda: functional.max_pool2d(x, 3, 2, 1), monkeypatch)
    packs = [r for r in rows if r.access == "global read" and "pack.cuh" in r.line]
    assert sum(r.units for r in packs) == sum(r.minimum for r in packs) == sectors * 3 // 2 - row * shape[1]
    singles = [r for r in rows if r.access == "global read" and "pack.cuh" not in r.line]
    assert sum(r.units for r in singles) == 0  # rows of eight or four threads begin where warps do
    assert torch.equal(y, torch_f.max_pool2d(x, 3, 2, 1))
