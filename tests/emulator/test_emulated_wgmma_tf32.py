"""gemm's row "wgmma_tf32" (floats rounded to tf32 by TMA), executed by the emulator, against float64 NumPy.

Integers are exact: compared bit for bit. A stage has 32 elements of K; the narrow tile has a ring of six, the wide one
of four.
"""

import numpy as np
import pytest
from chosen_tile import chosen_tile
from emulated_values import activate, assert_close, check_nan_and_infinity, empty, values
from emulator_client import Epilogue
from test_emulated_gemm import as_tf32
from test_emulated_kernels import kernels  # noqa: F401

SHAPES = [
    (1, 128, 128, 32),  # one tile, one step
    (1, 136, 200, 36),  # tails of M, N and K
    (2, 8, 264, 600),  # the ring wraps three times
    (3, 70, 5, 4),  # an odd number of columns: stored by the element
    (1, 1, 8, 20),
    (1, 9, 1, 24),
]


def product(kernels, a, b, epilogue=None):  # noqa: F811
    """a (B, M, K) by b (B, N, K)."""
    d = empty((a.shape[0], a.shape[1], b.shape[1]), "float32")
    kernels.gemm(a, b.swapaxes(1, 2), d, "float32", epilogue, algo="wgmma_tf32")
    return d


def integers(shape):
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    return (rng.integers(-9, 10, (B, rows, K)).astype(np.float32) for rows in (M, N))


def check_exact(kernels, shape):  # noqa: F811
    a, b = integers(shape)
    np.testing.assert_array_equal(product(kernels, a, b), a @ b.swapaxes(1, 2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_integers(kernels, shape):  # noqa: F811
    check_exact(kernels, shape)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize(("shape", "multiprocessors"), [((1, 136, 200, 600), 132), ((1, 200, 500, 520), 2)], ids=str)
def test_any_schedule(kernels, shape, multiprocessors, copies, schedule, monkeypatch):  # noqa: F811
    """The narrow tile; and on few multiprocessors the wide one, in clusters, whose rings wrap four times."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", str(multiprocessors))
    tile = "128 x 128 tiles" if multiprocessors > 4 else "128 x 256 tiles in clusters of 2"
    extents = dict(zip(("batch", "M", "N", "K"), shape, strict=True))
    assert chosen_tile("gemm", "wgmma_tf32", "float32", transpose_b=True, **extents) == tile
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_exact(kernels, shape)


def test_wide_tile_without_clusters(kernels, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "4")
    check_exact(kernels, (1, 256, 500, 520))


def test_operands_are_rounded_not_cut_off(kernels):  # noqa: F811
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (1, rows, 64)).astype(np.float32) for rows in (70, 72))
    a64, b64 = as_tf32(a.astype(np.float64)), as_tf32(b.astype(np.float64))
    expected, magnitude = a64 @ b64.swapaxes(1, 2), np.abs(a64) @ np.abs(b64).swapaxes(1, 2)
    assert_close(product(kernels, a, b), expected, magnitude, 64, "float32")


@pytest.mark.parametrize("n", [72, 67], ids=["by TMA", "by the element"])
@pytest.mark.parametrize(("act", "residual"), [("relu6", False), ("identity", False), ("silu", True)])
def test_epilogue(kernels, act, residual, n):  # noqa: F811
    rng = np.random.default_rng(3)
    a, b = (as_tf32(rng.uniform(-1, 1, (2, rows, 64))) for rows in (70, n))
    epilogue = Epilogue(act=act)
    epilogue.bias, epilogue.scale, epilogue.shift = (rng.uniform(-1, 1, n).astype(np.float32) for _ in range(3))
    added = np.zeros((2, 70, n))
    if residual:
        stored, added = values(rng, (2, 70, n), "float32")
        epilogue.residual = stored.swapaxes(1, 2)
    d = product(kernels, a.astype(np.float32), b.astype(np.float32), epilogue)
    linear = epilogue.scale * (a @ b.swapaxes(1, 2) + epilogue.bias) + epilogue.shift + added
    magnitude = np.abs(epilogue.scale) * (np.abs(a) @ np.abs(b).swapaxes(1, 2) + np.abs(epilogue.bias))
    assert_close(d, activate(linear, act, 0), magnitude + np.abs(epilogue.shift) + np.abs(added), 64, "float32")


def test_nan_and_infinity_stay_in_their_row_and_column(kernels):  # noqa: F811
    check_nan_and_infinity(kernels, (136, 136, 36), "float32", "wgmma_tf32", row=130, column=1, transpose="nt")


def test_strided_output_and_shared_operand(kernels):  # noqa: F811
    """b is one matrix for the whole batch; d lies inside a larger array, whose rest stays."""
    a, b = integers((3, 40, 72, 64))
    whole = np.full((3, 40, 80), -1, np.float32)
    shared = np.broadcast_to(b[:1].swapaxes(1, 2), (3, 64, 72))
    kernels.gemm(a, shared, whole[:, :, :72], "float32", algo="wgmma_tf32")
    np.testing.assert_array_equal(whole[:, :, :72], a @ b[0].T)
    np.testing.assert_array_equal(whole[:, :, 72:], -np.ones((3, 40, 8)))


def refusal(kernels, a, b, dtype="float32"):  # noqa: F811
    with pytest.raises(RuntimeError) as error:
        kernels.gemm(a, b, empty((1, a.shape[1], b.shape[2]), dtype), dtype, algo="wgmma_tf32")
    return str(error.value)


def test_refusals_tell_the_values(kernels):  # noqa: F811
    a, b = np.zeros((1, 16, 24), np.float32), np.zeros((1, 24, 8), np.float32)
    text = refusal(kernels, a, b)
    assert "b has strides (N, K) = (1, 8): wgmma takes tf32 operands with K contiguous" in text
    assert "a has strides" not in text
    text = refusal(kernels, np.zeros((1, 16, 22), np.float32), np.zeros((1, 22, 8), np.float32))
    assert "a has strides (M, K) = (22, 1): TMA needs a 1 beside a multiple of 4" in text
    assert "dtype is float16, not float32" in refusal(kernels, a.astype(np.float16), b.astype(np.float16), "float16")
