"""cp.async, ldmatrix, stmatrix and mma.sync of the emulator against NumPy: fragments lie where PTX puts them."""

import ctypes

import numpy as np
import pytest
from emulator_build import build_kernels
from emulator_client import narrow, widen

KINDS = ["float16", "bfloat16", "tf32", "tf32_rounded"]


@pytest.fixture(scope="module")
def products():
    library = build_kernels("warp_products.cu")
    library.round_to_tf32.argtypes = [ctypes.c_float]
    library.round_to_tf32.restype = ctypes.c_uint
    return library


def call(function, *arguments) -> None:
    text = ctypes.create_string_buffer(1 << 16)
    addresses = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    status = function(*addresses, text, ctypes.c_size_t(len(text)))
    assert status == 0, text.value.decode()


def stored(values: np.ndarray, kind: str) -> np.ndarray:
    return values.astype(np.float32) if kind.startswith("tf32") else narrow(values, kind)


def seen_by_the_tensor_core(array: np.ndarray, kind: str) -> np.ndarray:
    if not kind.startswith("tf32"):
        return widen(array, kind)
    bits = array.view(np.uint32) + (0x1000 if kind == "tf32_rounded" else 0)
    return (bits & np.uint32(0xFFFFE000)).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1", "rand:2"])
@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1"])
@pytest.mark.parametrize("depth", [16, 112])
@pytest.mark.parametrize("kind", KINDS)
def test_product(products, kind, depth, schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    rng = np.random.default_rng(1)
    a, b = stored(rng.uniform(-1, 1, (16, depth)), kind), stored(rng.uniform(-1, 1, (depth, 8)), kind)
    d = np.full((16, 8), np.nan, np.float32)
    call(products.product, KINDS.index(kind), a, b, d, depth)
    a64, b64 = seen_by_the_tensor_core(a, kind), seen_by_the_tensor_core(b, kind)
    assert np.all(np.abs(d - a64 @ b64) <= depth * 2.0**-23 * (np.abs(a64) @ np.abs(b64)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_subnormals_infinities_and_nan(products, kind):
    a, b = np.zeros((16, 16)), np.zeros((16, 8))
    a[0, 0], a[1, 1], a[2, 2], a[3, 3] = 2.0**-24, np.inf, -np.inf, np.nan
    b[:4] = 2.0
    d = np.empty((16, 8), np.float32)
    call(products.product, KINDS.index(kind), stored(a, kind), stored(b, kind), d, 16)
    assert np.all(d[0] == 2.0**-23)
    assert np.all(d[1] == np.inf) and np.all(d[2] == -np.inf) and np.all(np.isnan(d[3]))
    assert np.all(d[4:] == 0)


def test_ldmatrix_of_32_bit_elements(products):
    a, fragments = np.arange(128, dtype=np.float32), np.empty((32, 4), np.float32)
    call(products.tf32_fragment, a, fragments)
    lane = np.arange(32)
    for i, (row, column) in enumerate([(0, 0), (8, 0), (0, 4), (8, 4)]):
        np.testing.assert_array_equal(fragments[:, i], a.reshape(16, 8)[lane // 4 + row, lane % 4 + column])


def stored_places(matrices: int, transposed: bool) -> np.ndarray:
    """Element of (lane that names the row, element of the row), flat, that half h of register r of lane l goes to."""
    lane, r, half = np.meshgrid(np.arange(32), np.arange(matrices), np.arange(2), indexing="ij")
    row, column = lane // 4, lane % 4 * 2 + half
    if transposed:
        row, column = column, row
    return (8 * r + row) * 8 + column


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("matrices", [1, 2, 4])
def test_stmatrix(products, matrices, transposed):
    fragments = np.arange(1, 64 * matrices + 1, dtype=np.uint16).reshape(32, matrices, 2)
    rows, expected = (np.zeros(64 * matrices, np.uint16) for _ in range(2))
    call(products.store_matrices, matrices, int(transposed), fragments, rows)
    expected[stored_places(matrices, transposed)] = fragments
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 0x3F800000),
        (1 + 2.0**-11, 0x3F802000),
        (-1 - 2.0**-11, 0xBF802000),
        (1 + 2.0**-12, 0x3F800000),
        (3.4028235e38, 0x7F800000),
        (np.inf, 0x7F800000),
        (-np.inf, 0xFF800000),
        (np.nan, 0x7FFFFFFF),
    ],
)
def test_rounding_to_tf32(products, value, rounded):
    """To nearest, ties away from zero."""
    assert products.round_to_tf32(value) == rounded
