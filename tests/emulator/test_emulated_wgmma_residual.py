"""A residual in gemm's rows "wgmma" and "wgmma_tf32": fetched by TMA into the chunk that its sums leave through, or by
the element where TMA cannot; executed by the emulator, against float64 NumPy. Integers: compared bit for bit.
"""

import ctypes

import numpy as np
import pytest
from emulated_values import values
from emulator_build import build_library
from emulator_client import Epilogue, narrow, widen
from test_emulated_kernels import kernels  # noqa: F401
from test_emulator_counters import read_table

ROWS = {"float16": "wgmma", "bfloat16": "wgmma", "float32": "wgmma_tf32"}
# B, M, N, K, multiprocessors of the emulated GPU
TILES = {
    "one narrow tile": (1, 72, 72, 64, 132),
    "narrow tiles in turns": (5, 136, 72, 40, 2),
    "ragged chunks": (1, 200, 328, 72, 132),
    "wide tiles": (1, 256, 504, 1032, 2),
    "clusters in turns": (1, 512, 264, 72, 4),
    "clusters of wide tiles": (1, 256, 520, 1032, 4),
}


def operands(shape, dtype, residual_like=lambda r: r):
    """a, b, d, epilogue, and what d shall hold."""
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, N, K), dtype, integers=True)
    residual, residual64 = values(rng, (B, M, N), dtype, integers=True)
    epilogue = Epilogue(residual=residual_like(residual).swapaxes(1, 2), act="relu")
    epilogue.bias = rng.integers(-9, 10, N).astype(np.float32)
    d = narrow(np.full((B, M, N), -1.0), dtype)
    expected = np.maximum(a64 @ b64.swapaxes(1, 2) + epilogue.bias + residual64, 0)
    return a, b.swapaxes(1, 2), d, epilogue, widen(narrow(expected, dtype), dtype)


def check(kernels, shape, dtype, **options):  # noqa: F811
    a, b, d, epilogue, expected = operands(shape, dtype, **options)
    kernels.gemm(a, b, d, dtype, epilogue, algo=ROWS[dtype])
    np.testing.assert_array_equal(widen(d, dtype), expected)


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("tiles", TILES)
def test_exact_on_integers(kernels, tiles, dtype, monkeypatch):  # noqa: F811
    *shape, multiprocessors = TILES[tiles]
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", str(multiprocessors))
    check(kernels, shape, dtype)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
def test_any_schedule(kernels, copies, schedule, monkeypatch):  # noqa: F811
    """Five tiles a block: both buffers of a consumer take turns, and the ring of six stages wraps four times."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "1")
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check(kernels, (5, 72, 104, 320), "bfloat16")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("shape", "residual_like", "by_tma"),
    [
        ((2, 40, 72, 64), lambda r: r, True),
        ((2, 40, 67, 64), lambda r: r, False),  # an odd number of columns
        ((1, 40, 72, 64), lambda r: np.concatenate([r, r], axis=2)[:, :, :72], True),  # rows 144 apart
        ((1, 40, 72, 64), lambda r: np.concatenate([r, r[:, :, :1]], axis=2)[:, :, :72], False),  # rows 73 apart
        ((1, 40, 72, 64), lambda r: r.swapaxes(1, 2).copy().swapaxes(1, 2), False),  # columns contiguous
        ((1, 40, 72, 64), lambda r: np.concatenate([r.reshape(-1)[:1], r.reshape(-1)])[1:].reshape(r.shape), False),
    ],
    ids=["dense", "odd", "part of rows", "uneven rows", "transposed", "misaligned"],
)
def test_who_reads_it(kernels, shape, residual_like, by_tma, dtype, monkeypatch):  # noqa: F811
    """Where TMA does not, every element is an ordinary read of global memory by the general epilogue."""
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    check(kernels, shape, dtype, residual_like=residual_like)
    rows = [row for row in read_table(library) if row.access == "global read"]
    library.fastconv_emulator_clear_counters()
    assert any("epilogue.h" in row.line for row in rows) != by_tma


def test_a_batch_that_shares_one_residual(kernels):  # noqa: F811
    """Its stride of 0 is none for a tensor map."""
    a, b, d, epilogue, _ = operands((3, 40, 72, 64), "float16")
    shared = np.broadcast_to(epilogue.residual[:1], epilogue.residual.shape)
    epilogue.residual = shared
    kernels.gemm(a, b, d, "float16", epilogue, algo="wgmma")
    product = widen(a, "float16") @ widen(b, "float16")
    expected = np.maximum(product + epilogue.bias + widen(shared, "float16").swapaxes(1, 2), 0)
    np.testing.assert_array_equal(widen(d, "float16"), expected)


def test_in_place(kernels):  # noqa: F811
    """The residual may be d itself: every element is read before it is written."""
    a, b, d, epilogue, expected = operands((1, 200, 264, 72), "bfloat16")
    d[...] = epilogue.residual.swapaxes(1, 2)
    epilogue.residual = d.swapaxes(1, 2)
    kernels.gemm(a, b, d, "bfloat16", epilogue, algo="wgmma")
    np.testing.assert_array_equal(widen(d, "bfloat16"), expected)


def test_nan_stays(kernels):  # noqa: F811
    a, b, d, epilogue, expected = operands((1, 72, 72, 64), "float16")
    residual = epilogue.residual.swapaxes(1, 2)
    residual[0, 70, 3], residual[0, 1, 71] = np.nan, np.inf
    kernels.gemm(a, b, d, "float16", epilogue, algo="wgmma")
    expected[0, 70, 3], expected[0, 1, 71] = np.nan, np.inf
    np.testing.assert_array_equal(widen(d, "float16"), expected)
