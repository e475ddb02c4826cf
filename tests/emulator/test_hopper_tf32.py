"""tf32 on Hopper, against NumPy: loads that round floats to it, and products of what they leave.

test_hopper_layouts.py holds the layouts against NVIDIA's own headers.
"""

import numpy as np
import pytest
from test_hopper_products import accumulator_places, call, hopper, move, swizzle  # noqa: F401

K = 32  # floats in a row of 128 bytes
TF32 = 2


def cut(values: np.ndarray) -> np.ndarray:
    """What the tensor core sees of floats."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """To nearest, of values that lie on no tie."""
    with np.errstate(invalid="ignore"):
        mantissa, exponent = np.frexp(values.astype(np.float64))
        return np.ldexp(np.round(mantissa * 2048) / 2048, exponent).astype(np.float32)


def operand_offsets(rows: int) -> np.ndarray:
    """Byte of element (row, k) of a tile in shared memory, as TMA writes it with a swizzle of 128 bytes."""
    row, k = np.meshgrid(np.arange(rows), np.arange(K), indexing="ij")
    return row * 128 + ((k // 4) ^ (row % 8)) * 16 + k % 4 * 4


def multiply(hopper, a, b, offsets=operand_offsets) -> np.ndarray:  # noqa: F811
    columns, images = len(b), []
    for operand in (a, b):
        image = np.zeros(operand.size, np.float32)
        image[offsets(len(operand)) // 4] = operand
        images.append(image)
    d = np.zeros((128, columns // 2), np.float32)
    call(hopper.warpgroup_product, TF32, columns, 0, 0, *images, d)
    product = np.zeros(64 * columns, np.float32)
    product[accumulator_places(columns)] = d
    return product.reshape(64, columns)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1"])
@pytest.mark.parametrize("columns", [64, 128, 256])
def test_product_of_integers(hopper, columns, schedule, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    rng = np.random.default_rng(columns)
    a, b = (rng.integers(-99, 99, (n, K)).astype(np.float32) for n in (64, columns))
    np.testing.assert_array_equal(multiply(hopper, a, b), a @ b.T)


def test_low_bits_are_ignored(hopper):  # noqa: F811
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (n, K)).astype(np.float32) for n in (64, 128))
    got = multiply(hopper, a, b)
    a64, b64 = cut(a).astype(np.float64), cut(b).astype(np.float64)
    np.testing.assert_allclose(got, a64 @ b64.T, rtol=0, atol=2.0**-24 * K * 8)
    assert np.abs(a.astype(np.float64) @ b.astype(np.float64).T - a64 @ b64.T).max() > 2.0**-12
    np.testing.assert_array_equal(multiply(hopper, cut(a), cut(b)), got)


def test_wrong_layout_gives_a_wrong_product(hopper):  # noqa: F811
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-9, 9, (64, K)).astype(np.float32) for _ in range(2))

    def plain(rows):
        return np.arange(rows * K).reshape(rows, K) * 4

    assert not np.array_equal(multiply(hopper, a, b, plain), a @ b.T)


@pytest.mark.parametrize("span", [0, 128])
@pytest.mark.parametrize("as_tf32", [False, True])
def test_load_rounds(hopper, as_tf32, span):  # noqa: F811
    tensor = np.random.default_rng(2).uniform(-4, 4, (12, K)).astype(np.float32)
    tensor[0, :5] = np.inf, -np.inf, np.nan, 3.4e38, 1 + 2.0**-11 + 2.0**-20
    tensor.view(np.uint32)[0, 5] = 0x7F800001  # a NaN in the low bits alone
    image = np.zeros(tensor.size * 4, np.uint8)
    move(hopper, False, tensor, (0, 0), tensor.shape, span, image, as_tf32)
    got = image.view(np.float32)[swizzle(np.arange(len(image)), span)[::4] // 4].reshape(tensor.shape)
    np.testing.assert_array_equal(got, rounded(tensor) if as_tf32 else tensor)
    assert (np.isnan(cut(got)) == np.isnan(tensor)).all() or not as_tf32
