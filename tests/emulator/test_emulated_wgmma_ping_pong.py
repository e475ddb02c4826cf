"""Consumers that take turns with whole tiles (ping-pong), in gemm's and conv2d's Hopper rows, executed by the emulator.

Integers are exact: compared bit for bit. The tile of 128 columns has a ring of six stages, conv2d's of 64 one of eight.
A block's tiles alternate between its consumers, so that an odd number of them leaves one idle in the end.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_f
from emulated_values import check_nan_and_infinity, empty, gemm_operand, values
from emulator_client import Epilogue, narrow, widen
from test_emulated_conv_mma import assert_exact, emulated, integers
from test_emulated_kernels import kernels  # noqa: F401

from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

ROWS = {"float16": "wgmma", "bfloat16": "wgmma", "float32": "wgmma_tf32"}
HALF = torch.float16


@pytest.fixture(autouse=True)
def two_multiprocessors(monkeypatch):
    """Two blocks, or one cluster: several tiles each in small problems."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")


def check_gemm(kernels, shape, dtype, transpose="nt", act="relu", bias=True):  # noqa: F811
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, K, N), dtype, integers=True)
    epilogue = Epilogue(act=act, param=0.25)
    epilogue.bias = rng.integers(-9, 10, N).astype(np.float32) if bias else None
    d = empty((B, M, N), dtype)
    operands = gemm_operand(a, transpose[0] == "t"), gemm_operand(b, transpose[1] == "t")
    kernels.gemm(*operands, d, dtype, epilogue, algo=ROWS[dtype])
    sums = a64 @ b64 + (epilogue.bias if bias else 0)
    expected = np.where(sums > 0, sums, sums * (0.25 if act == "leaky_relu" else 0))
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(expected, dtype), dtype))


def kernel_of(call, monkeypatch):
    """A launch that is not allowed to do anything says what it was to be."""
    monkeypatch.setenv("FASTCONV_EMULATOR_LIMIT", "1")
    with pytest.raises(RuntimeError) as error:
        call()
    return "ping_pong" in str(error.value), "in clusters of (2,1,1)" in str(error.value)


@pytest.mark.parametrize(
    ("shape", "act", "turns", "clusters"),
    [
        ((1, 128, 256, 64), "relu", False, False),  # a tile each
        ((1, 384, 128, 4096), "relu", True, False),  # the narrow tile in any case; three rows of tiles
        ((1, 512, 128, 4096), "relu", True, True),
        ((1, 512, 512, 1024), "relu", True, True),  # sixteen steps
        ((1, 512, 512, 1025), "relu", False, True),  # seventeen: wide tiles
        ((1, 512, 512, 4800), "leaky_relu", True, True),  # 75 steps before the general epilogue
        ((1, 512, 512, 4801), "leaky_relu", False, True),
    ],
)
def test_where_it_is_taken(kernels, shape, act, turns, clusters, monkeypatch):  # noqa: F811
    def call():
        B, M, N, K = shape
        aligned = (K + 7) // 8 * 8
        a, b = (np.zeros((B, rows, aligned), np.float16)[:, :, :K] for rows in (M, N))
        kernels.gemm(a, b.swapaxes(1, 2), empty((B, M, N), "float16"), "float16", Epilogue(act=act), algo="wgmma")

    assert kernel_of(call, monkeypatch) == (turns, clusters)


@pytest.mark.parametrize("transpose", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(
    "shape",
    [(1, 384, 128, 72), (3, 136, 200, 200), (1, 648, 72, 264)],
    ids=["three tiles", "ragged", "rings that wrap"],
)
def test_exact_on_integers(kernels, shape, transpose):  # noqa: F811
    check_gemm(kernels, shape, "bfloat16", transpose)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("m", [640, 512], ids=["blocks", "clusters"])
def test_any_schedule(kernels, m, copies, schedule, monkeypatch):  # noqa: F811
    """Two or three tiles of ten steps each: rings of six stages wrap three times and more."""
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_gemm(kernels, (1, m, 72, 600), "float16")


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("act", ["relu", "leaky_relu"])
@pytest.mark.parametrize("n", [136, 131], ids=["even", "odd"])
def test_epilogues(kernels, n, act, dtype):  # noqa: F811
    """By TMA, and by the element."""
    check_gemm(kernels, (1, 392, n, 40), dtype, act=act)


def test_nan_stays_in_its_row_and_column(kernels):  # noqa: F811
    check_nan_and_infinity(kernels, (384, 136, 72), "bfloat16", "wgmma", row=200, column=130)


@pytest.mark.parametrize("schedule", ["fifo", "rand:1"])
@pytest.mark.parametrize("act", ["relu", "leaky_relu"])
@pytest.mark.parametrize("filters", [24, 136, 250])
def test_convolution(filters, act, schedule, monkeypatch):
    """Tiles of 64 and of 128 filters, with a residual."""
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", schedule.replace("fifo", "lazy"))
    x, w = integers((3, 40, 11, 13), HALF), integers((filters, 40, 3, 1), HALF, low=-1, high=1)
    residual = integers((3, filters, 9, 13), HALF)
    got = emulated(functional.conv2d, x, w, residual=residual, act=act, act_param=0.25, algo="wgmma")
    sums = torch_f.conv2d(x.double(), w.double()) + residual.double()
    assert_exact(got, torch.where(sums > 0, sums, sums * (0.25 if act == "leaky_relu" else 0)))


@pytest.mark.parametrize(
    ("filters", "channels", "window", "act", "turns"),
    [
        (24, 640, 3, "relu", True),
        (128, 640, 3, "relu", True),
        (250, 128, 3, "relu", False),  # 18 steps, wide tiles
        (250, 64, 1, "relu", True),
        (250, 128, 3, "silu", True),
    ],
)
def test_where_convolution_takes_it(filters, channels, window, act, turns, monkeypatch):
    x, w = torch.zeros(1, channels, 24, 24, dtype=HALF), torch.zeros(filters, channels, window, window, dtype=HALF)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))

    def call():
        emulated(functional.conv2d, x, w, padding=window // 2, act=act, algo="wgmma")

    assert kernel_of(call, monkeypatch)[0] == turns
