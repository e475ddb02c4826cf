"""conv2d's row "wgmma" in clusters of two blocks, which fetch halves of the filters for one another; on an emulated GPU
of four multiprocessors.

Small integers are exact: compared bit for bit. The pixels are tiles of 128, of which a cluster takes two.
"""

import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from chosen_tile import chosen_tile
from test_emulated_conv_mma import assert_exact, emulated, integers
from test_emulated_conv_stats import check as check_stats
from test_emulated_conv_stats import stats
from test_emulated_kernels import kernels  # noqa: F401
from test_emulated_wgmma_ping_pong import kernel_of

from fastconv import functional, introspection
from fastconv.bench.problem import WindowProblem

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF = torch.bfloat16, torch.float16
# The problem, its tiles and whether the consumers take turns with them. Rings of 64, 128 and 256 filters have eight,
# six and four stages.
CASES = {
    "64": ("mb2ic136ih17oc40kh3ph1", 64, True),  # five tiles of 27 steps: the last block has one without pixels
    "eight pixels": ("mb1ic24ih24iw27oc40kh1", 64, True),  # of a last tile
    "128": ("mb3ic72ih17oc120kh3ph1", 128, True),  # seven of 18
    "128 by turns": ("mb3ic40ih17oc250kh3kw1ph1pw0", 256, True),  # three steps, for which the wide tile is not taken
    "256": ("mb3ic128ih17oc250kh3ph1", 256, False),  # 18 steps
    "columns": ("mb4ic64ih15oc264kh3ph1", 128, True),
    "images": ("mb83ic8ih3oc24kh3ph1", 64, True),  # pairs of tiles begin and end amid images
    "stride": ("mb3ic16ih37oc72kh3sh2sw3ph1pw2", 128, True),
    "dilated": ("mb2ic16ih20oc66kh3kw2dh2dw4ph2pw3", 128, True),
    "groups": ("g2mb2ic128ih15oc96kh3ph1", 64, True),
    "groups of ragged columns": ("g3mb1ic192ih12oc30kh3ph1", 64, True),
    "odd filters": ("mb3ic16ih17oc131kh3ph1", 256, True),  # stored by the element
}  # fmt: skip
SCHEDULES = [
    ("lifo", "lazy"), ("rand:1", "lazy"), ("lifo", "eager"), ("rand:2", "eager"), ("lifo", "rand:1"),
    ("rand:3", "rand:2"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def four_multiprocessors(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "4")


def operands(name, dtype, channels_last=True):
    p = WindowProblem.parse(CASES[name][0])
    x = integers((p.batch, p.in_channels, p.height, p.width), dtype, channels_last)
    w = integers((p.out_channels, p.in_channels // p.groups, *p.kernel), dtype, channels_last, -1, 1)
    options = {"stride": p.stride, "padding": p.padding, "dilation": p.dilation, "groups": p.groups}
    return x, w, torch_f.conv2d(x.double(), w.double(), **options), options


def check(name, dtype, channels_last=True):
    x, w, expected, options = operands(name, dtype, channels_last)
    assert_exact(emulated(functional.conv2d, x, w, **options, algo="wgmma"), expected)


@pytest.mark.parametrize("name", CASES)
def test_they_are_taken(name, monkeypatch):
    problem, tile, turns = CASES[name]
    expected = f"128 x {tile} tiles in clusters of 2"
    assert chosen_tile("conv2d", "wgmma", "float16", problem, channels_last=True) == expected
    x, w, _, options = operands(name, HALF)
    call = lambda: emulated(functional.conv2d, x, w, **options, algo="wgmma")  # noqa: E731
    assert kernel_of(call, monkeypatch) == (turns, True)


@pytest.mark.parametrize(
    ("problem", "tile"),
    [
        ("mb1ic64ih22oc64kh3ph1", "128 x 64 tiles"),  # one wave
        ("mb1ic64ih22oc128kh3ph1", "128 x 128 tiles"),
        ("mb1ic128ih8oc1280kh3ph1", "128 x 128 tiles"),  # ten, but the second block of a cluster would have no pixels
    ],
)
def test_where_they_are_not(problem, tile):
    assert chosen_tile("conv2d", "wgmma", "float16", problem, channels_last=True) == tile


def test_a_single_multiprocessor_has_none(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "1")
    assert "clusters" not in chosen_tile("conv2d", "wgmma", "float16", CASES["128"][0], channels_last=True)
    check("128", HALF)


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("name", CASES)
def test_exact_on_integers(name, dtype):
    check(name, dtype)


@pytest.mark.parametrize("name", ["groups", "odd filters"])
def test_packed_operands(name):
    """NCHW, both."""
    check(name, HALF, channels_last=False)


@pytest.mark.parametrize(("schedule", "copies"), SCHEDULES)
@pytest.mark.parametrize("name", ["64", "128", "256", "eight pixels"])
def test_any_schedule(name, schedule, copies, monkeypatch):
    """On one cluster, whose rings wrap three times and more."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check(name, BFLOAT16)


@pytest.mark.parametrize(
    ("name", "act"), list(itertools.product(["64", "128", "128 by turns", "256"], ["relu", "silu"]))
)
def test_epilogue_with_a_residual(name, act):
    """Relu: both leave and arrive by TMA."""
    x, w, product, options = operands(name, HALF)
    residual, bias = integers(tuple(product.shape), HALF), integers((w.shape[0], 1), HALF, False)[:, 0].contiguous()
    got = emulated(functional.conv2d, x, w, bias, **options, residual=residual, act=act, algo="wgmma")
    expected = product + bias.double()[:, None, None] + residual.double()
    if act == "relu":
        assert_exact(got, expected.relu())
    else:
        torch.testing.assert_close(got.double(), torch_f.silu(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["64", "256"])
def test_rows_apart(kernels, name):  # noqa: F811
    """y is a slice of a larger tensor, whose rest stays: TMA does not store it."""
    x, w, expected, _ = operands(name, HALF)
    whole = integers((*expected.shape[:3], expected.shape[3] + 2), HALF)
    y, around = whole[..., 1:-1], whole.clone()
    kernels.conv2d(x.numpy(), w.numpy(), y.numpy(), "float16", (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), algo="wgmma")
    assert_exact(y, expected)
    assert torch.equal(whole[..., 0], around[..., 0]) and torch.equal(whole[..., -1], around[..., -1])


@pytest.mark.parametrize("name", ["64", "eight pixels", "groups", "stride"])
def test_statistics(name):
    x, w, expected, options = operands(name, BFLOAT16)
    check_stats(stats(x, w, **options), expected)


def test_infinities_stay_in_their_pixel_and_filter():
    """Each block's half of the filters reaches both, and no pixel the other's tile."""
    x, w = torch.ones(1, 16, 23, 24, dtype=HALF), torch.ones(62, 16, 1, 1, dtype=HALF)
    x[0, 3, 5, 8] = x[0, 15, 22, 23] = float("nan")  # of the first tile and of the last
    w[7], w[61, 15] = 2.0, float("inf")
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    y = emulated(functional.conv2d, x, w, algo="wgmma")
    expected = torch_f.conv2d(x.double(), w.double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0, equal_nan=True)
