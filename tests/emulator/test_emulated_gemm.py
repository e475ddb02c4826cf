"""The rows of gemm beyond plain "simt", executed by the emulator, against float64 NumPy.

Integers are exact in every type and sum here, tf32 included: compared bit for bit. Random inputs are values of the type
that the row multiplies in, tf32 where it rounds to that.
"""

import ctypes

import numpy as np
import pytest
from chosen_tile import chosen_tile
from emulated_values import activate, assert_close, check_nan_and_infinity, empty, gemm_operand, values
from emulator_build import build_library
from emulator_client import ACTIVATIONS, DTYPES, Epilogue, narrow, widen
from test_emulated_kernels import kernels  # noqa: F401
from test_emulator_counters import read_table

ROWS = [
    ("mma", "float16"), ("mma", "bfloat16"), ("mma_tf32", "float32"),
    ("mma_split_k", "float16"), ("mma_split_k", "bfloat16"), ("mma_tf32_split_k", "float32"),
    ("simt_split_k", "float32"), ("simt_split_k", "float64"), ("simt_split_k", "bfloat16"),
]  # fmt: skip
ONE_OF_EACH = [
    ("mma", "bfloat16"), ("mma_split_k", "float16"), ("mma_tf32", "float32"), ("mma_tf32_split_k", "float32"),
    ("simt_split_k", "float32"),
]  # fmt: skip
TRANSPOSES = ["nn", "nt", "tn", "tt"]
SHAPES = [
    (1, 67, 71, 37),  # primes: nothing is aligned, copied by the element
    (3, 17, 19, 45),
    (1, 1, 130, 300),
    (1, 64, 64, 64),  # whole tiles
    (1, 72, 136, 40),  # chunks inside tails of M, N and K
    (2, 24, 8, 424),  # the ring of four stages wraps three times
]


def check_exact(kernels, shape, transpose, algo, dtype):  # noqa: F811
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, K, N), dtype, integers=True)
    d = empty((B, M, N), dtype)
    kernels.gemm(gemm_operand(a, transpose[0] == "t"), gemm_operand(b, transpose[1] == "t"), d, dtype, algo=algo)
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(a64 @ b64, dtype), dtype))


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_integers(kernels, shape, transpose, algo, dtype):  # noqa: F811
    check_exact(kernels, shape, transpose, algo, dtype)


@pytest.mark.parametrize(("algo", "dtype"), ONE_OF_EACH)
@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_large_tile(kernels, transpose, algo, dtype):  # noqa: F811
    """Enough 128 x 128 tiles that these are chosen, ragged."""
    shape = (100, 72, 72, 48 if "split" in algo else 16)
    if dtype != "float64":
        assert (
            chosen_tile("gemm", algo, dtype, **dict(zip(("batch", "M", "N", "K"), shape, strict=True)))
            == "128 x 128 tiles"
        )
    check_exact(kernels, shape, transpose, algo, dtype)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2", "rand:3"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize(("algo", "dtype"), ONE_OF_EACH)
def test_any_schedule(kernels, algo, dtype, copies, schedule, monkeypatch):  # noqa: F811
    """The ring wraps, whatever the order of the threads and the moment in which copies land."""
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_exact(kernels, (1, 72, 40, 424), "tn", algo, dtype)


def as_tf32(values64):
    """Rounded to eleven bits."""
    mantissa, exponent = np.frexp(values64)
    return np.ldexp(np.round(mantissa * 2048) / 2048, exponent)


def operand(rng, shape, algo, dtype):
    stored, exact = values(rng, shape, dtype)
    if "tf32" not in algo:
        return stored, exact
    exact = as_tf32(exact)
    return exact.astype(np.float32), exact


@pytest.mark.parametrize("n", [72, 67], ids=["vectors", "elements"])
@pytest.mark.parametrize(("algo", "dtype"), ONE_OF_EACH)
@pytest.mark.parametrize(
    ("act", "parameter"), [*((act, "scalar") for act in ACTIVATIONS), ("prelu", "channel"), ("prelu", "full")]
)
def test_epilogue(kernels, act, parameter, algo, dtype, n):  # noqa: F811
    rng = np.random.default_rng(4)
    B, M, K = 2, 70, 64
    a, a64 = operand(rng, (B, M, K), algo, dtype)
    b, b64 = operand(rng, (B, K, n), algo, dtype)
    residual, residual64 = values(rng, (B, M, n), dtype)
    # The residual is a view of size (batch, N, M, 1), and so is the parameter of every element.
    epilogue = Epilogue(act=act, param=0.25, residual=residual.swapaxes(1, 2))
    epilogue.bias, epilogue.scale, epilogue.shift = (rng.uniform(-1, 1, n).astype(np.float32) for _ in range(3))
    slope = 0.25
    if parameter == "channel":
        epilogue.channel_param = slope = rng.uniform(-1, 1, n).astype(np.float32)
    elif parameter == "full":
        stored, slope = values(rng, (B, M, n), dtype)
        epilogue.full_param = stored.swapaxes(1, 2)
    magnitude = np.abs(epilogue.scale) * (np.abs(a64) @ np.abs(b64) + np.abs(epilogue.bias))
    expected = epilogue.scale * (a64 @ b64 + epilogue.bias) + epilogue.shift + residual64
    d = empty((B, M, n), dtype)
    kernels.gemm(a, b, d, dtype, epilogue, algo=algo)
    assert_close(
        d, activate(expected, act, slope), magnitude + np.abs(epilogue.shift) + np.abs(residual64), K, dtype
    )  # fmt: skip


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
def test_bias_alone(kernels, algo, dtype):  # noqa: F811
    rng = np.random.default_rng(5)
    a, a64 = values(rng, (1, 40, 40), dtype, integers=True)
    b, b64 = values(rng, (1, 40, 72), dtype, integers=True)
    bias = rng.integers(-9, 9, 72).astype(np.float64)
    d = empty((1, 40, 72), dtype)
    kernels.gemm(a, b, d, dtype, Epilogue(bias=bias, act="relu6"), algo=algo)
    np.testing.assert_array_equal(widen(d, dtype), np.clip(a64 @ b64 + bias, 0, 6))


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("shape", [(70, 70, 40), (72, 72, 40)], ids=str)
def test_nan_and_infinity_stay_in_their_row_and_column(kernels, shape, algo, dtype):  # noqa: F811
    check_nan_and_infinity(kernels, shape, dtype, algo, row=66, column=1, act="relu")


@pytest.mark.parametrize(("algo", "dtype"), [("mma", "float16"), ("mma_tf32", "float32")])
@pytest.mark.parametrize("extent", ["batch", "M", "N", "K"])
def test_of_nothing(kernels, extent, algo, dtype):  # noqa: F811
    sizes = {"batch": 2, "M": 5, "N": 7, "K": 3, extent: 0}
    a = narrow(np.ones((sizes["batch"], sizes["M"], sizes["K"])), dtype)
    b = narrow(np.ones((sizes["batch"], sizes["K"], sizes["N"])), dtype)
    d = empty((sizes["batch"], sizes["M"], sizes["N"]), dtype)
    kernels.gemm(a, b, d, dtype, Epilogue(bias=np.full(sizes["N"], 2.0)), algo=algo)
    np.testing.assert_array_equal(widen(d, dtype), np.full(d.shape, 2.0))


@pytest.mark.parametrize(("algo", "dtype"), ONE_OF_EACH)
def test_strided_views(kernels, algo, dtype):  # noqa: F811
    """Aligned and misaligned column ranges and every second row; an output inside a larger array, whose rest stays."""
    rng = np.random.default_rng(2)
    whole_a, a64 = values(rng, (1, 80, 64), dtype, integers=True)
    whole_b, b64 = values(rng, (1, 64, 120), dtype, integers=True)
    for columns, to in ((slice(8, 48), slice(16, 56)), (slice(3, 34), slice(7, 38))):
        whole = narrow(np.full((1, 50, 64), 77.0), dtype)
        kernels.gemm(whole_a[:, ::2], whole_b[:, :, columns], whole[:, 4:44, to], dtype, algo=algo)
        np.testing.assert_array_equal(widen(whole[:, 4:44, to], dtype), a64[:, ::2] @ b64[:, :, columns])
        whole[:, 4:44, to] = narrow(np.full(1, 77.0), dtype)
        assert (widen(whole, dtype) == 77).all()


def test_tf32_rounds_to_nearest(kernels):  # noqa: F811
    """1 + 3/4 of tf32's unit becomes 1 + 1 unit, where cutting off the mantissa's end would leave 1."""
    unit = 2.0**-10
    a = np.full((1, 16, 16), 1 + 0.75 * unit, np.float32)
    d = empty((1, 16, 16), "float32")
    kernels.gemm(a, np.eye(16, dtype=np.float32)[None], d, "float32", algo="mma_tf32")
    np.testing.assert_array_equal(d, np.full(d.shape, 1 + unit))


VECTOR_SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 40, 130),  # K is no whole number of vectors in 16 bits
    (1, 1, 72, 528),
    (2, 72, 1, 264),
    (1, 37, 1, 41),
    (1, 4300, 1, 16),  # rows enough for a warp each
    (1, 1, 67, 0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("shape", VECTOR_SHAPES, ids=str)
def test_matrix_times_vector(kernels, shape, transpose, dtype):  # noqa: F811
    check_exact(kernels, shape, transpose, "gemv", dtype)


@pytest.mark.parametrize(("m", "n"), [(1, 48), (48, 1)])
def test_matrix_times_vector_with_epilogue(kernels, m, n):  # noqa: F811
    rng = np.random.default_rng(8)
    a, a64 = values(rng, (2, m, 80), "bfloat16")
    b, b64 = values(rng, (2, 80, n), "bfloat16")
    residual, residual64 = values(rng, (2, m, n), "bfloat16")
    slope = rng.uniform(-1, 1, n).astype(np.float32)
    epilogue = Epilogue(act="prelu", channel_param=slope, residual=residual.swapaxes(1, 2))
    epilogue.bias = rng.uniform(-1, 1, n).astype(np.float32)
    d = empty((2, m, n), "bfloat16")
    kernels.gemm(a, b, d, "bfloat16", epilogue, algo="gemv")
    expected = activate(a64 @ b64 + epilogue.bias + residual64, "prelu", slope)
    assert_close(d, expected, np.abs(a64) @ np.abs(b64) + np.abs(epilogue.bias) + np.abs(residual64), 80, "bfloat16")


REFUSALS = {
    "gemv": ("float16", "gemv: M = 8, N = 8: neither is 1"),
    "mma": ("float32", "mma: dtype is float32, not float16 or bfloat16"),
    "mma_tf32": ("float16", "mma_tf32: dtype is float16, not float32"),
    "mma_split_k": ("float16", "mma_split_k: K = 20 is one step of 32: nothing to split"),
}


@pytest.mark.parametrize("algo", REFUSALS)
def test_reasons(kernels, algo):  # noqa: F811
    dtype, reason = REFUSALS[algo]
    a, b, d = (empty(shape, dtype) for shape in [(1, 8, 20), (1, 20, 8), (1, 8, 8)])
    with pytest.raises(RuntimeError, match=reason):
        kernels.gemm(a, b, d, dtype, algo=algo)


def test_older_gpus_take_the_cuda_cores(kernels, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "75")
    a, b, d = (narrow(np.ones(shape), "float16") for shape in [(1, 8, 40), (1, 40, 8), (1, 8, 8)])
    with pytest.raises(RuntimeError, match=r"the GPU is sm_75: mma\.sync and cp\.async need sm_80"):
        kernels.gemm(a, b, d, "float16", algo="mma")
    kernels.gemm(a, b, d, "float16")
    np.testing.assert_array_equal(d, np.full(d.shape, 40.0))


@pytest.mark.parametrize(("algo", "dtype"), [("mma", "float16"), ("mma_tf32", "float32"), ("simt", "float32")])
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("batch", [1, 100], ids=["small_tile", "large_tile"])
def test_no_bank_conflicts(kernels, batch, transpose, algo, dtype, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    check_exact(kernels, (batch, 72, 72, 32), transpose, algo, dtype)
    rows = [row for row in read_table(library) if not row.access.startswith("global")]
    library.fastconv_emulator_clear_counters()
    assert {row.access for row in rows} >= {"shared read", "shared write"}
    assert [row for row in rows if row.units != row.minimum] == []
