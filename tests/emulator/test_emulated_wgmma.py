"""gemm's row "wgmma" (TMA, mbarriers, warpgroup products), executed by the emulator, against float64 NumPy.

Integers are exact: compared bit for bit. The narrow tile has a ring of six stages, the wide one of four, of 64 elements
of K each; reductions of 1160 elements go round three times. Blocks with several narrow tiles work in turns:
test_emulated_wgmma_ping_pong.py.
"""

import numpy as np
import pytest
from emulated_values import activate, assert_close, check_nan_and_infinity, empty, gemm_operand, values
from emulator_client import ACTIVATIONS, Epilogue, narrow, widen
from test_emulated_kernels import kernels  # noqa: F401

TRANSPOSES = ["nn", "nt", "tn", "tt"]
SHAPES = [
    (1, 128, 128, 64),  # one tile, one step
    (1, 136, 200, 72),  # tails of M, N and K
    (2, 8, 264, 1160),  # the ring wraps three times
    (3, 72, 8, 8),
]


@pytest.fixture
def four_multiprocessors(monkeypatch):
    """Two clusters of two blocks; the wide tile where it has more than a wave."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "4")


def product(kernels, shape, transpose, dtype, epilogue=None):  # noqa: F811
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, K, N), dtype, integers=True)
    d = empty((B, M, N), dtype)
    operands = gemm_operand(a, transpose[0] == "t"), gemm_operand(b, transpose[1] == "t")
    kernels.gemm(*operands, d, dtype, epilogue, algo="wgmma")
    return d, a64 @ b64


def check_exact(kernels, shape, transpose, dtype):  # noqa: F811
    d, expected = product(kernels, shape, transpose, dtype)
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(expected, dtype), dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_integers(kernels, shape, transpose, dtype):  # noqa: F811
    check_exact(kernels, shape, transpose, dtype)


@pytest.mark.parametrize(
    ("shape", "transpose"),
    [((1, 1, 8, 20), "nn"), ((3, 1, 16, 64), "nt"), ((1, 8, 1, 72), "nt"), ((1, 16, 8, 1), "tn")],
)
def test_extents_of_one(kernels, shape, transpose):  # noqa: F811
    """A dimension of one entry has any stride; a tensor map takes multiples of 16 bytes that reach past the others."""
    check_exact(kernels, shape, transpose, "float16")


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_wide_tile(kernels, transpose, monkeypatch):  # noqa: F811
    """17 steps, too deep for consumers in turns, go four times round its ring; N is ragged."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "1")
    check_exact(kernels, (2, 8, 200, 1032), transpose, "bfloat16")


@pytest.mark.parametrize("transpose", ["nt", "tn"])
def test_blocks_take_several_tiles(kernels, transpose):  # noqa: F811
    """More tiles than multiprocessors: the ring goes on from one tile to the next, fetched during the epilogue."""
    check_exact(kernels, (150, 16, 8, 200), transpose, "bfloat16")


@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 400, 504, 72), (4, 136, 200, 72)], ids=str)
def test_clusters_share_an_operand(kernels, shape, dtype, transpose, four_multiprocessors):  # noqa: F811
    """Pairs of tiles, the second of which may be ragged, in products of one pair and of several; narrow, in turns."""
    check_exact(kernels, shape, transpose, dtype)


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_clusters_of_wide_tiles(kernels, transpose, four_multiprocessors):  # noqa: F811
    check_exact(kernels, (1, 200, 520, 1032), transpose, "bfloat16")


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2", "rand:3"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("transpose", ["nt", "tn"])
def test_clusters_in_any_schedule(kernels, transpose, copies, schedule, four_multiprocessors, monkeypatch):  # noqa: F811
    """18 steps in each of up to two tiles: rings of four stages wrap four times and nine."""
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_exact(kernels, (1, 200, 520, 1096), transpose, "bfloat16")


@pytest.mark.parametrize("k", [64, 1032], ids=["in turns", "wide tiles"])
@pytest.mark.parametrize("n", [520, 521], ids=["by TMA", "by the element"])
def test_clusters_with_an_epilogue(kernels, n, k, four_multiprocessors):  # noqa: F811
    rng = np.random.default_rng(7)
    a, a64 = values(rng, (1, 200, k), "float16", integers=True)
    b, b64 = values(rng, (1, k, n), "float16", integers=True)
    epilogue = Epilogue(act="relu", bias=rng.integers(-9, 9, n).astype(np.float32))
    d = empty((1, 200, n), "float16")
    kernels.gemm(a, gemm_operand(b, True), d, "float16", epilogue, algo="wgmma")
    np.testing.assert_array_equal(widen(d, "float16"), np.maximum(a64 @ b64 + epilogue.bias, 0))


@pytest.mark.parametrize(
    ("shape", "clusters"),
    [
        ((1, 400, 504, 1200), True),
        ((1, 256, 504, 1200), False),  # one wave
        ((1, 384, 504, 1200), False),  # three rows of tiles
        ((1, 2050, 200, 1200), True),  # seventeen
        ((1, 512, 120, 1200), False),  # one wave of the narrow tile
    ],
)
def test_where_clusters_are_taken(kernels, shape, clusters, four_multiprocessors, monkeypatch):  # noqa: F811
    """A launch that is not allowed to do anything says what it was to be."""
    monkeypatch.setenv("FASTCONV_EMULATOR_LIMIT", "1")
    with pytest.raises(RuntimeError) as error:
        check_exact(kernels, shape, "nt", "float16")
    assert ("in clusters of (2,1,1)" in str(error.value)) == clusters, error.value


def test_odd_rows_of_tiles_share_where_there_are_many(kernels, four_multiprocessors):  # noqa: F811
    """The last cluster's second block has rows of zeros to multiply, and none to store."""
    check_exact(kernels, (1, 2050, 200, 24), "nt", "bfloat16")


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2", "rand:3"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("transpose", ["nt", "tn"])
def test_any_schedule(kernels, transpose, copies, schedule, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_exact(kernels, (1, 136, 200, 1160), transpose, "bfloat16")


@pytest.mark.parametrize("n", [72, 67, 1], ids=["by TMA", "by the element", "one column"])
@pytest.mark.parametrize("act", ["identity", "relu", "relu6"])
def test_channel_epilogue(kernels, act, n):  # noqa: F811
    rng = np.random.default_rng(3)
    a, a64 = values(rng, (2, 70, 64), "float16")
    b, b64 = values(rng, (2, 64, n), "float16")
    epilogue = Epilogue(act=act)
    epilogue.bias, epilogue.scale, epilogue.shift = (rng.uniform(-1, 1, n).astype(np.float32) for _ in range(3))
    d = empty((2, 70, n), "float16")
    kernels.gemm(a, gemm_operand(b, True), d, "float16", epilogue, algo="wgmma")
    expected = activate(epilogue.scale * (a64 @ b64 + epilogue.bias) + epilogue.shift, act, 0)
    magnitude = np.abs(epilogue.scale) * (np.abs(a64) @ np.abs(b64) + np.abs(epilogue.bias)) + np.abs(epilogue.shift)
    assert_close(d, expected, magnitude, 64, "float16")


@pytest.mark.parametrize("n", [72, 67], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("act", "parameter"), [*((act, "scalar") for act in ACTIVATIONS), ("prelu", "channel"), ("prelu", "full")]
)
def test_general_epilogue(kernels, act, parameter, n):  # noqa: F811
    rng = np.random.default_rng(4)
    a, a64 = values(rng, (2, 70, 64), "bfloat16")
    b, b64 = values(rng, (2, 64, n), "bfloat16")
    residual, residual64 = values(rng, (2, 70, n), "bfloat16")
    # The residual is a view of size (batch, N, M, 1), and so is the parameter of every element.
    epilogue = Epilogue(act=act, param=0.25, residual=residual.swapaxes(1, 2))
    epilogue.bias = rng.uniform(-1, 1, n).astype(np.float32)
    slope = 0.25
    if parameter == "channel":
        epilogue.channel_param = slope = rng.uniform(-1, 1, n).astype(np.float32)
    elif parameter == "full":
        stored, slope = values(rng, (2, 70, n), "bfloat16")
        epilogue.full_param = stored.swapaxes(1, 2)
    d = empty((2, 70, n), "bfloat16")
    kernels.gemm(a, gemm_operand(b, True), d, "bfloat16", epilogue, algo="wgmma")
    linear = a64 @ b64 + epilogue.bias + residual64
    magnitude = np.abs(a64) @ np.abs(b64) + np.abs(epilogue.bias) + np.abs(residual64)
    assert_close(d, activate(linear, act, slope), magnitude, 64, "bfloat16")


def test_nan_and_infinity_stay_in_their_row_and_column(kernels):  # noqa: F811
    check_nan_and_infinity(kernels, (136, 136, 72), "bfloat16", "wgmma", row=130, column=1, act="relu")


def test_strided_output_and_shared_operand(kernels):  # noqa: F811
    """b is one matrix for the whole batch; d lies inside a larger array, whose rest stays."""
    rng = np.random.default_rng(5)
    a, a64 = values(rng, (3, 40, 64), "float16", integers=True)
    b, b64 = values(rng, (1, 64, 72), "float16", integers=True)
    whole = narrow(np.full((3, 40, 80), -1.0), "float16")
    kernels.gemm(a, np.broadcast_to(b, (3, 64, 72)), whole[:, :, :72], "float16", algo="wgmma")
    np.testing.assert_array_equal(widen(whole[:, :, :72], "float16"), a64 @ b64)
    np.testing.assert_array_equal(widen(whole[:, :, 72:], "float16"), -np.ones((3, 40, 8)))


def refusal(kernels, a, b, dtype):  # noqa: F811
    d = empty((a.shape[0], a.shape[1], b.shape[2]), dtype)
    with pytest.raises(RuntimeError) as error:
        kernels.gemm(a, b, d, dtype, algo="wgmma")
    return str(error.value)


def half(*shape):
    return np.zeros(shape, np.float16)


def test_refusals_tell_the_values(kernels, monkeypatch):  # noqa: F811
    text = refusal(kernels, half(1, 16, 20), half(1, 20, 16), "float16")
    assert "a has strides (M, K) = (20, 1): TMA needs a 1 beside a multiple of 8" in text
    assert "b has strides" not in text
    shifted = half(1, 16, 24).reshape(-1)[4:-4][: 16 * 16].reshape(1, 16, 16)
    past = shifted.ctypes.data % 16
    assert f"a starts {past} bytes past a multiple of 16" in refusal(kernels, shifted, half(1, 16, 16), "float16")
    sliced = half(2, 17, 20)[:, :16, :16]
    assert "a has a batch stride of 340, no multiple of 8" in refusal(kernels, sliced, half(2, 16, 16), "float16")
    single = np.zeros((1, 16, 16), np.float32)
    assert "dtype is float32, not float16 or bfloat16" in refusal(kernels, single, single, "float32")
    assert "K = 0" in refusal(kernels, half(1, 16, 0), half(1, 0, 16), "float16")
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    assert "the GPU is sm_80: wgmma is sm_90a's" in refusal(kernels, half(1, 16, 16), half(1, 16, 16), "float16")
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "0")
    assert "there is no CUDA device" in refusal(kernels, half(1, 16, 16), half(1, 16, 16), "float16")
