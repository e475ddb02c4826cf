"""Softmax's kernels under the emulator: who keeps a column, what that reads, and the same bits whoever else is there.

A column lies in the registers of a part of a warp, of a warp, or of up to 32; longer ones in shared memory; those that
fit neither are read twice. The judge is torch in float64.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulator_build import build_library
from test_emulator_counters import read_table

import fastconv
from fastconv import introspection, ops

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

FLOAT, HALF, BFLOAT16, DOUBLE = torch.float32, torch.float16, torch.bfloat16, torch.float64
INFINITY, NAN = float("inf"), float("nan")


def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    return ops.native.softmax(x, dim, "cuda_emulated")


def backward(dy: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
    return ops.native.softmax_backward(dy, y, dim, "cuda_emulated")


def values(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 4.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale).to(dtype)


def check(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and gradients, element by element, against float64."""
    wide, dy = x.double().requires_grad_(), values(tuple(x.shape), x.dtype, 1.0)
    truth = torch.softmax(wide, dim)
    y = softmax(x, dim)
    rounding = torch.finfo(x.dtype).eps
    noise = 1e-12 if x.dtype == DOUBLE else 1e-6
    torch.testing.assert_close(y.double(), truth.detach(), rtol=rounding + noise, atol=1e-7, equal_nan=True)
    dx = backward(dy, y, dim)
    stored = y.double()
    expected = stored * (dy.double() - (stored * dy.double()).sum(dim, keepdim=True))
    torch.testing.assert_close(dx.double(), expected, rtol=2 * rounding, atol=noise, equal_nan=True)
    return y, dx


# Whom a column belongs to, on either side of every limit; shape and dimension.
COLUMNS = {
    "a_lane": ((40, 1), 1),
    "some_lanes": ((37, 5), 1),
    "a_warp_in_packs": ((9, 1000), 1),
    "a_warp_by_elements": ((5, 333), 1),
    "two_warps": ((5, 1028), 1),
    "eight_warps": ((2, 4003), 1),
    "all_warps": ((2, 8200), 1),
    "shared_memory": ((1, 16392), 1),
    "shared_memory_by_elements": ((1, 16387), 1),
    "packs_of_columns": ((2, 21, 4, 9), 1),
    "columns_of_two_planes": ((3, 21, 7, 5), 1),
    "two_columns": ((2, 70, 2), 1),
    "columns_of_some_warps": ((1, 130, 4, 6), 1),
    "columns_of_all_warps": ((1, 700, 12), 1),
    "columns_by_elements": ((2, 600, 5), 1),
    "columns_in_shared_memory": ((1, 1100, 8), 1),
    "first_of_three": ((33, 3, 5), 0),
}


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT16, DOUBLE], ids=str)
@pytest.mark.parametrize(("shape", "dim"), COLUMNS.values(), ids=COLUMNS)
def test_values(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    check(values(shape, dtype), dim)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize(("shape", "dim"), COLUMNS.values(), ids=COLUMNS)
def test_any_schedule(shape: tuple[int, ...], dim: int, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = values(shape, HALF)
    expected = check(x, dim)
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    for once, again in zip(expected, check(x, dim), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("columns", [name for name, (_, dim) in COLUMNS.items() if dim == 1])
def test_a_column_does_not_know_its_batch(columns: str, dtype: torch.dtype) -> None:
    shape, dim = COLUMNS[columns]
    x = values((5, *shape[1:]), dtype)
    whole = softmax(x, dim)
    gradients = backward(x, whole, dim)
    for first, last in ((0, 1), (1, 4), (4, 5)):
        part = x[first:last].clone()
        assert torch.equal(softmax(part, dim), whole[first:last])
        assert torch.equal(backward(part, whole[first:last].clone(), dim), gradients[first:last])


@pytest.mark.parametrize("shape", [(3, 40000), (2, 1600, 10)], ids=str)
def test_read_twice_where_shared_memory_is_small(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits, on a GPU with 64 KiB a block."""
    x = values(shape, FLOAT)
    kept = check(x, 1)
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "75")
    for once, again in zip(kept, check(x, 1), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("kind", ["some_minus", "minus", "plus", "both", "nan", "nan_and_plus"])
@pytest.mark.parametrize("columns", ["a_lane", "a_warp_in_packs", "two_warps", "shared_memory", "packs_of_columns",
                                     "columns_by_elements", "columns_in_shared_memory"])  # fmt: skip
def test_special_values(columns: str, kind: str, place: str) -> None:
    shape, dim = COLUMNS[columns]
    x = values(shape, FLOAT)
    length, at = shape[dim], 0 if place == "first" else shape[dim] - 1
    column = x.movedim(dim, -1).flatten(0, -2)[-1] if dim == len(shape) - 1 else x[-1].flatten(1)[:, -1]
    if kind == "some_minus":
        column[: length - 1 if place == "last" else length // 2] = -INFINITY
    elif kind == "minus":
        column[:] = -INFINITY
    else:
        column[at] = {"plus": INFINITY, "both": INFINITY}.get(kind, NAN)
        if kind != "plus":
            column[length // 2] = {"both": -INFINITY, "nan": column[length // 2], "nan_and_plus": INFINITY}[kind]
    truth = torch.softmax(x, dim)
    assert truth.isnan().any() == (kind != "some_minus")
    torch.testing.assert_close(softmax(x, dim), truth, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize(("shape", "dim"), [((3, 1000), 1), ((2, 21, 8, 8), 1), ((1, 32768), 1)], ids=str)
def test_misaligned(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    count = torch.Size(shape).numel()
    x = values((count + 1,), dtype)[1:].view(shape)
    assert x.is_contiguous() and x.data_ptr() % 16
    check(x, dim)


# One block holds each: all that it reads and writes is the tensor's sectors of 32 bytes.
WHOLE_SECTORS = [
    ((2, 1000), 1, FLOAT), ((4, 1024), 1, BFLOAT16), ((8, 512), 1, HALF), ((1, 8192), 1, FLOAT), ((1, 20480), 1, HALF),
    ((1, 24576), 1, FLOAT), ((1, 40000), 1, BFLOAT16), ((1, 512), 1, FLOAT), ((2, 192), 1, DOUBLE),
    ((1, 21, 8, 8), 1, FLOAT), ((1, 19, 8, 16), 1, HALF), ((1, 256, 4, 4), 1, FLOAT), ((1, 256, 4, 8), 1, BFLOAT16),
    ((1, 1000, 2, 8), 1, FLOAT), ((1, 700, 32), 1, BFLOAT16), ((1, 1200, 16), 1, FLOAT), ((1, 2, 16, 16), 1, FLOAT),
]  # fmt: skip


@pytest.mark.parametrize("gradient", [False, True], ids=["softmax", "gradient"])
@pytest.mark.parametrize(("shape", "dim", "dtype"), WHOLE_SECTORS, ids=str)
def test_every_sector_moves_once(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dy = values(shape, dtype), values(shape, dtype)
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    backward(dy, x, dim) if gradient else softmax(x, dim)
    rows = read_table(library)
    library.fastconv_emulator_clear_counters()
    sectors = x.numel() * x.element_size() // 32
    moved = {
        access: sum(row.units for row in rows if row.access == access) for access in ("global read", "global write")
    }
    assert moved == {"global read": (2 if gradient else 1) * sectors, "global write": sectors}
    # What waits in shared memory lies side by side.
    assert [row for row in rows if row.access.startswith("shared") and row.units != row.minimum] == []


def test_convolution_scores_through_the_functional_form() -> None:
    with fastconv.backend("cuda_emulated"):
        y = fastconv.functional.softmax(values((2, 19, 9, 11), HALF).to(memory_format=torch.channels_last), 1)
    torch.testing.assert_close(y.float().sum(1), torch.ones(2, 9, 11), rtol=0, atol=4e-3)
