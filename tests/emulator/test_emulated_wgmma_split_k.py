"""gemm's rows "wgmma_split_k" and "wgmma_tf32_split_k", executed by the emulator, against float64 NumPy.

Integers are exact in any order of summation: compared bit for bit. The number of multiprocessors says how many parts
there are and how many of them a block computes: with one or two, the ring of six or four stages goes round several
times.
"""

import numpy as np
import pytest
from emulated_values import activate, assert_close, check_nan_and_infinity, empty, gemm_operand, values
from emulator_client import ACTIVATIONS, Epilogue, narrow, widen
from test_emulated_kernels import kernels  # noqa: F401

import fastconv

TYPES = ["float16", "bfloat16", "float32"]
SHAPES = [
    # (batch, M, N, K), multiprocessors
    ((1, 128, 128, 128), 132),  # two parts of a step
    ((1, 136, 200, 1160), 1),  # tails of M, N and K; parts one after the other in the same ring
    ((1, 130, 300, 1160), 2),  # the wide tile
    ((3, 72, 40, 520), 7),  # batches, parts of different lengths
    ((2, 8, 67, 264), 132),  # odd columns: rows of partial sums end amid a sector
    ((1, 1, 24, 600), 132),
    ((1, 16, 1, 600), 132),
]


def row(dtype):
    return "wgmma_tf32_split_k" if dtype == "float32" else "wgmma_split_k"


def operand(array, dtype, transposed):
    """Rows in whole 16-byte chunks, in a larger array where they are not."""
    stored = array.swapaxes(1, 2) if transposed else array
    multiple = 16 // stored.itemsize
    padded = np.zeros((*stored.shape[:2], -(-stored.shape[2] // multiple) * multiple), stored.dtype)
    padded[..., : stored.shape[2]] = stored
    view = padded[..., : stored.shape[2]]
    return view.swapaxes(1, 2) if transposed else view


def product(kernels, shape, transpose, dtype, epilogue=None, integers=True):  # noqa: F811
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=integers)
    b, b64 = values(rng, (B, K, N), dtype, integers=integers)
    d = empty((B, M, N), dtype)
    a, b = operand(a, dtype, transpose[0] == "t"), operand(b, dtype, transpose[1] == "t")
    kernels.gemm(a, b, d, dtype, epilogue, algo=row(dtype))
    return d, a64 @ b64


def check_exact(kernels, shape, transpose, dtype):  # noqa: F811
    d, expected = product(kernels, shape, transpose, dtype)
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(expected, dtype), dtype))


@pytest.mark.parametrize(
    ("dtype", "transpose"), [*((t, form) for t in TYPES[:2] for form in ("nn", "nt", "tn", "tt")), ("float32", "nt")]
)
@pytest.mark.parametrize(("shape", "multiprocessors"), SHAPES, ids=str)
def test_exact_on_integers(kernels, shape, multiprocessors, transpose, dtype, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", str(multiprocessors))
    check_exact(kernels, shape, transpose, dtype)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
def test_any_schedule(kernels, copies, schedule, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    check_exact(kernels, (1, 136, 200, 1160), "tn", "bfloat16")
    check_exact(kernels, (2, 130, 72, 600), "nt", "float32")


def test_parts_are_added_in_their_order(kernels, monkeypatch):  # noqa: F811
    """Random numbers, whose sums depend on the order: the same bits each time."""
    results = []
    for schedule in ("fifo", "lifo", "rand:1"):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
        results.append(product(kernels, (1, 40, 72, 2000), "nt", "float16", integers=False)[0].copy())
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("n", [72, 67], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("act", "parameter"), [*((act, "scalar") for act in ACTIVATIONS), ("prelu", "channel"), ("prelu", "full")]
)
def test_epilogue(kernels, act, parameter, n):  # noqa: F811
    rng = np.random.default_rng(4)
    a, a64 = values(rng, (2, 70, 192), "bfloat16")
    b, b64 = values(rng, (2, 192, n), "bfloat16")
    residual, residual64 = values(rng, (2, 70, n), "bfloat16")
    epilogue = Epilogue(act=act, param=0.25, residual=residual.swapaxes(1, 2))
    epilogue.bias, epilogue.scale, epilogue.shift = (rng.uniform(-1, 1, n).astype(np.float32) for _ in range(3))
    slope = 0.25
    if parameter == "channel":
        epilogue.channel_param = slope = rng.uniform(-1, 1, n).astype(np.float32)
    elif parameter == "full":
        stored, slope = values(rng, (2, 70, n), "bfloat16")
        epilogue.full_param = stored.swapaxes(1, 2)
    d = empty((2, 70, n), "bfloat16")
    kernels.gemm(a, gemm_operand(b, True), d, "bfloat16", epilogue, algo="wgmma_split_k")
    scale, inner = epilogue.scale, a64 @ b64 + epilogue.bias
    magnitude = np.abs(scale) * (np.abs(a64) @ np.abs(b64) + np.abs(epilogue.bias)) + np.abs(epilogue.shift)
    expected = activate(scale * inner + epilogue.shift + residual64, act, slope)
    assert_close(d, expected, magnitude + np.abs(residual64), 192, "bfloat16")


def test_nan_and_infinity_stay_in_their_row_and_column(kernels):  # noqa: F811
    check_nan_and_infinity(kernels, (136, 136, 136), "bfloat16", "wgmma_split_k", row=130, column=1)


def test_strided_output(kernels):  # noqa: F811
    """d lies inside a larger array, columns apart, whose rest stays."""
    rng = np.random.default_rng(5)
    a, a64 = values(rng, (1, 40, 136), "float16", integers=True)
    b, b64 = values(rng, (1, 136, 24), "float16", integers=True)
    whole = narrow(np.full((1, 40, 80), -1.0), "float16")
    kernels.gemm(a, b, whole[:, :, 3:75:3], "float16", algo="wgmma_split_k")
    expected = np.full((1, 40, 80), -1.0)
    expected[:, :, 3:75:3] = a64 @ b64
    np.testing.assert_array_equal(widen(whole, "float16"), expected)


def refusal(kernels, K, dtype, algo):  # noqa: F811
    a, b = (np.zeros(shape, np.float32 if dtype == "float32" else np.float16) for shape in ((1, 16, K), (1, K, 16)))
    with pytest.raises(RuntimeError) as error:
        kernels.gemm(a, gemm_operand(b, True), empty((1, 16, 16), dtype), dtype, algo=algo)
    return str(error.value)


def test_refusals_tell_the_values(kernels, monkeypatch):  # noqa: F811
    assert "K = 64 is one step of 64: nothing to split" in refusal(kernels, 64, "float16", "wgmma_split_k")
    assert "K = 32 is one step of 32: nothing to split" in refusal(kernels, 32, "float32", "wgmma_tf32_split_k")
    assert "dtype is float32, not float16 or bfloat16" in refusal(kernels, 128, "float32", "wgmma_split_k")
    assert "dtype is float16, not float32" in refusal(kernels, 128, "float16", "wgmma_tf32_split_k")
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    assert "the GPU is sm_80: wgmma is sm_90a's" in refusal(kernels, 128, "float16", "wgmma_split_k")


@pytest.mark.parametrize(
    ("problem", "row"),
    [
        ("m512k8192n512", "wgmma_split_k"),
        ("m128k16384n1024", "wgmma_split_k"),
        ("m4096k4096n4096", "wgmma"),  # waves of tiles
        ("m1024k512n2048", "wgmma"),  # nearly a wave, and K too short for two launches
    ],
)
def test_choice(problem, row):
    assert fastconv.explain("gemm", problem, backend="cuda_emulated", dtype="float16").chosen == row
