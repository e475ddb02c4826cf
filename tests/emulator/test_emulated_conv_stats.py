"""conv2d_stats' row "wgmma", executed by the emulator: y bit for bit conv2d's, its statistics against float64."""

import ctypes
import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from emulator_build import build_library
from test_emulated_conv_mma import assert_exact, integers
from test_emulated_conv_wgmma import SHAPES, operands
from test_emulator_counters import read_table

import fastconv
from fastconv import introspection, ops

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF = torch.bfloat16, torch.float16
# The others' y does not leave by TMA.
SERVED = [name for name, (_, filters, *_) in SHAPES.items() if filters % 8 == 0]


def stats(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, algo="wgmma"):
    both = (torch.nn.modules.utils._pair(value) for value in (stride, padding, dilation))
    stride, (vertical, horizontal), dilation = both
    geometry = (stride, [vertical, vertical, horizontal, horizontal], dilation, groups)
    return ops.native.conv2d_stats(x, w, bias, *geometry, algo, "cuda_emulated")


def check(got, expected64):
    """Of what is stored: y is rounded first."""
    y, mean, var = got
    assert_exact(y, expected64)
    stored = y.double()
    torch.testing.assert_close(mean.double(), stored.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), stored.var((0, 2, 3), correction=0), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("shape", SERVED)
def test_statistics_of_what_is_stored(shape, dtype):
    x, w, expected, options = operands(shape, dtype)
    bias = torch.arange(w.shape[0]).to(dtype) % 5
    check(stats(x, w, bias, **options), expected + bias.double()[:, None, None])


@pytest.mark.parametrize("filters", [64, 72, 136, 256], ids=["one", "two", "ragged", "wide tiles"])
@pytest.mark.parametrize("pixels", [(4, 16), (5, 13), (13, 10), (33, 31), (129, 131)], ids=str)
def test_groups_of_pixels(pixels, filters):
    """One whole group of 64, one pixel more, a second consumer with two pixels, chunks and tiles; each its own mean."""
    x, w = integers((1, 8, *pixels), HALF), integers((filters, 8, 1, 1), HALF, low=-1, high=1)
    x = (x + torch.arange(pixels[0], dtype=HALF)[:, None] % 7).contiguous(memory_format=torch.channels_last)
    check(stats(x, w), torch_f.conv2d(x.double(), w.double()))


def test_blocks_of_several_tiles(monkeypatch):
    """The ring and the chunks go on from one tile to the next, three times round."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    x, w = integers((3, 72, 19, 20), BFLOAT16), integers((136, 72, 3, 3), BFLOAT16, low=-1, high=1)
    check(stats(x, w, padding=1), torch_f.conv2d(x.double(), w.double(), padding=1))


def test_a_large_mean_costs_no_digits():
    """Deviations of a few units in the last place."""
    x, w = integers((2, 16, 23, 20), HALF), torch.zeros(64, 16, 1, 1, dtype=HALF)
    w[torch.arange(64), torch.arange(64) % 16] = 1
    bias = torch.full((64,), 1500.0, dtype=HALF)
    check(stats(x, w, bias), torch_f.conv2d(x.double(), w.double(), bias.double()))


def test_one_pixel_and_one_value():
    x, w = torch.ones(1, 8, 1, 1, dtype=HALF), torch.ones(16, 8, 1, 1, dtype=HALF)
    y, mean, var = stats(x, w)
    assert y.flatten().tolist() == mean.tolist() == [8.0] * 16 and var.tolist() == [0.0] * 16
    y, mean, var = stats(torch.ones(3, 8, 9, 9, dtype=HALF).contiguous(memory_format=torch.channels_last), w)
    assert mean.tolist() == [8.0] * 16 and var.tolist() == [0.0] * 16


def test_nan_stays_in_its_channels():
    x, w = integers((2, 128, 9, 10), HALF), integers((144, 64, 1, 1), HALF, low=-1, high=1)
    x[1, 70, 8, 9] = float("nan")  # of the second group
    y, mean, var = stats(x, w, groups=2)
    for values in (mean, var):
        assert values[:72].isfinite().all() and values[72:].isnan().all()
    assert torch.equal(mean.isnan(), y.isnan().any((0, 2, 3)).reshape(-1))


@pytest.mark.parametrize(
    ("schedule", "copies"), list(itertools.product(["lifo", "rand:1", "rand:2"], ["lazy", "eager", "rand:1"]))
)
def test_any_schedule_gives_the_same_bits(schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 13, 15, generator=generator).to(HALF).contiguous(memory_format=torch.channels_last)
    w = torch.randn(136, 64, 3, 3, generator=generator).to(HALF)
    first = stats(x, w, padding=1)
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    for a, b in zip(first, stats(x, w, padding=1), strict=True):
        assert torch.equal(a, b)


def test_reading_a_chunk_by_columns_has_no_bank_conflicts(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    stats(integers((1, 64, 8, 16), HALF), integers((64, 64, 1, 1), HALF))
    rows = [row for row in read_table(library) if "wgmma" in row.kernel and row.access == "shared read"]
    library.fastconv_emulator_clear_counters()
    assert sum(row.instructions for row in rows) >= 8 * 16  # 16 rows a lane, 8 warps
    assert [row for row in rows if row.units != row.minimum] == []


def test_reasons():
    x, w = integers((1, 16, 9, 9), HALF), integers((10, 16, 3, 3), HALF)
    with pytest.raises(RuntimeError, match="y's 10 channels do not leave by TMA"):
        stats(x.contiguous(), w.contiguous())
    with pytest.raises(RuntimeError, match="dtype is float32, not float16 or bfloat16"):
        stats(x.float(), w.float())


@pytest.mark.parametrize(
    ("problem", "layout", "row"),
    [
        ("mb32ic256ih14oc256kh3ph1", {"channels_last": True}, "wgmma"),
        ("mb32ic256ih56oc64kh1", {"channels_last": True}, "wgmma"),  # conv2d's own choice is the product
        ("mb32ic256ih14oc256kh3ph1", {}, "parts"),
        ("mb1ic256ih14oc256kh3ph1", {"channels_last": True}, "parts"),
        ("mb32ic3ih224oc64kh7sh2ph3", {"channels_last": True}, "parts"),
        ("g256mb32ic256ih14oc256kh3ph1", {"channels_last": True}, "parts"),
    ],
)
def test_choice(problem, layout, row):
    answer = fastconv.explain("conv2d_stats", problem, backend="cuda_emulated", dtype="bfloat16", **layout)
    assert answer.chosen == row
