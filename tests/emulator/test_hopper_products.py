"""TMA and wgmma of the emulator against NumPy: boxes, swizzles and fragments lie where the PTX ISA puts them.

test_hopper_layouts.py holds the same formulas against NVIDIA's own headers.
"""

import ctypes

import numpy as np
import pytest
from emulator_build import build_kernels
from emulator_client import narrow, widen

K = 64  # of a tile


@pytest.fixture(scope="module")
def hopper():
    return build_kernels("hopper_products.cu")


def call(function, *arguments) -> None:
    text = ctypes.create_string_buffer(1 << 16)
    addresses = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    status = function(*addresses, text, ctypes.c_size_t(len(text)))
    if status:
        raise RuntimeError(text.value.decode())


# ---- boxes ---------------------------------------------------------------------------------------------------------
def swizzle(addresses: np.ndarray, span: int) -> np.ndarray:
    """Bits 4.. of a byte address change with bits 7..: one bit for a span of 32 bytes, two for 64, three for 128."""
    bits = {0: 0, 32: 1, 64: 2, 128: 3}[span]
    return addresses ^ (addresses >> 7 & (1 << bits) - 1) << 4


def box_of(tensor: np.ndarray, start: tuple[int, ...], box: tuple[int, ...]) -> np.ndarray:
    """Outermost dimension first; zeros outside the tensor."""
    got = np.zeros(box, tensor.dtype)
    for index in np.ndindex(*box):
        at = tuple(s + i for s, i in zip(start, index, strict=True))
        if all(0 <= a < extent for a, extent in zip(at, tensor.shape, strict=True)):
            got[index] = tensor[at]
    return got


def move(hopper, store, tensor, start, box, span, image, as_tf32=False) -> None:
    def inner_first(numbers):
        return np.array(list(numbers)[::-1], np.int64)

    strides = inner_first(s // tensor.itemsize for s in tensor.strides)
    call(
        hopper.move_box, int(store), int(as_tf32), tensor.ndim, tensor, inner_first(tensor.shape), strides,
        inner_first(box), inner_first(start), span, image,
    )  # fmt: skip


BOXES = [
    ((20, 24), (8, 8), (3, 4)),  # inside
    ((20, 24), (16, 8), (12, 20)),  # over the end of both
    ((20, 24), (4, 8), (-2, -4)),  # before the start of both
    ((20, 24), (4, 8), (40, 4)),  # wholly outside
    ((3, 9, 12), (2, 8, 8), (1, 4, 8)),
    ((3, 9, 12), (2, 4, 8), (2, -1, -4)),
]


@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize(("shape", "box", "start"), BOXES, ids=str)
def test_load_of_a_box(hopper, shape, box, start, span, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    tensor = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    image = np.full(np.prod(box) * 4, 255, np.uint8)
    move(hopper, False, tensor, start, box, span, image)
    got = image.view(np.float32)[swizzle(np.arange(len(image)), span)[::4] // 4]
    np.testing.assert_array_equal(got.reshape(box), box_of(tensor, start, box))


@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize(("shape", "box", "start"), BOXES, ids=str)
def test_store_of_a_box(hopper, shape, box, start, span, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    tensor = np.zeros(shape, np.float32)
    values = np.arange(1, np.prod(box) + 1, dtype=np.float32)
    image = np.zeros(np.prod(box) * 4, np.uint8)
    image.view(np.float32)[swizzle(np.arange(len(image)), span)[::4] // 4] = values
    move(hopper, True, tensor, start, box, span, image)
    # What the box holds lies at its place, and nothing anywhere else.
    inside = box_of(np.ones(shape), start, box) > 0
    np.testing.assert_array_equal(box_of(tensor, start, box), np.where(inside, values.reshape(box), 0))
    assert np.count_nonzero(tensor) == np.count_nonzero(inside)


@pytest.mark.parametrize(
    ("shape", "box", "span", "message"),
    [
        ((20, 25), (4, 8), 0, "stride 1 is 100 bytes, not a multiple of 16 below 2^40"),
        ((20, 24), (4, 6), 0, "a row of the box has 24 bytes, not a multiple of 16"),
        ((300, 24), (257, 8), 0, "box extent 1 is 257, not 1 to 256"),
        ((20, 24), (4, 16), 32, "a row of the box has 64 bytes, more than the swizzle's 32"),
        ((0, 24), (4, 8), 0, "extent 1 is 0, not 1 to 2^32"),
    ],
)
def test_tensor_map_that_the_driver_would_refuse(hopper, shape, box, span, message):
    tensor = np.zeros(shape, np.float32)
    with pytest.raises(RuntimeError) as error:
        move(hopper, False, tensor, (0, 0), box, span, np.zeros(1 << 14, np.uint8))
    assert message in str(error.value)


def test_tensor_that_starts_between_two_multiples_of_16_bytes(hopper):
    tensor = np.zeros(1000, np.float32)
    first = 1 if tensor.ctypes.data % 16 == 0 else 0
    tensor = tensor[first : first + 240].reshape(10, 24)
    with pytest.raises(RuntimeError) as error:
        move(hopper, False, tensor, (0, 0), (4, 8), 0, np.zeros(128, np.uint8))
    assert "does not start on a 16-byte boundary" in str(error.value)


# ---- products ------------------------------------------------------------------------------------------------------
def operand_offsets(rows: int, mn_major: bool) -> np.ndarray:
    """Byte of element (row, k) of a tile in shared memory, as TMA writes it with a swizzle of 128 bytes."""
    row, k = np.meshgrid(np.arange(rows), np.arange(K), indexing="ij")
    if mn_major:
        return row // 64 * K * 128 + k * 128 + ((row % 64 // 8) ^ (k % 8)) * 16 + row % 8 * 2
    return row * 128 + ((k // 8) ^ (row % 8)) * 16 + k % 8 * 2


def accumulator_places(columns: int) -> np.ndarray:
    """Element of the row-major tile that thread t holds in register i."""
    t, i = np.meshgrid(np.arange(128), np.arange(columns // 2), indexing="ij")
    row = t // 32 * 16 + t % 32 // 4 + i // 2 % 2 * 8
    return row * columns + i // 4 * 8 + t % 4 * 2 + i % 2


def image_of(stored: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    image = np.zeros(stored.size, np.uint16)
    image[offsets // 2] = stored.view(np.uint16)
    return image


def multiply(hopper, dtype, a, b, majors, layout=operand_offsets, places=accumulator_places) -> np.ndarray:
    """a (64, K) times b (columns, K) transposed, through the images that `layout` gives."""
    columns = len(b)
    d = np.zeros((128, columns // 2), np.float32)
    images = [image_of(narrow(x, dtype), layout(len(x), mn)) for x, mn in zip((a, b), majors, strict=True)]
    call(hopper.warpgroup_product, int(dtype == "bfloat16"), columns, *map(int, majors), *images, d)
    product = np.zeros(64 * columns, np.float32)
    product[places(columns)] = d
    return product.reshape(64, columns)


def operands(columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(columns)
    return rng.integers(-8, 9, (64, K)).astype(np.float64), rng.integers(-8, 9, (columns, K)).astype(np.float64)


MAJORS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1"])
@pytest.mark.parametrize("majors", MAJORS, ids=["kk", "km", "mk", "mm"])
@pytest.mark.parametrize("columns", [64, 128, 256])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_product(hopper, dtype, columns, majors, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    a, b = operands(columns)
    np.testing.assert_array_equal(multiply(hopper, dtype, a, b, majors), a @ b.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_product_of_random_values(hopper, dtype):
    rng = np.random.default_rng(0)
    a, b = (widen(narrow(rng.uniform(-1, 1, (n, K)), dtype), dtype) for n in (64, 128))
    got = multiply(hopper, dtype, a, b, (False, False))
    np.testing.assert_allclose(got, a @ b.T, rtol=0, atol=2.0**-24 * K * 8)


@pytest.mark.parametrize("mistake", ["no swizzle", "other swizzle", "row shifted", "transposed"])
def test_wrong_layout_gives_a_wrong_product(hopper, mistake):
    """None of these breaks a rule of the checker: the numbers tell."""

    def layout(rows, mn_major):
        row, k = np.meshgrid(np.arange(rows), np.arange(K), indexing="ij")
        plain = row * 128 + k * 2
        return {
            "no swizzle": lambda: plain,
            "other swizzle": lambda: swizzle(plain, 64),
            "row shifted": lambda: operand_offsets(rows, mn_major)[np.roll(np.arange(rows), 1)],
            "transposed": lambda: operand_offsets(rows, not mn_major),
        }[mistake]()

    a, b = operands(64)
    assert not np.array_equal(multiply(hopper, "float16", a, b, (False, False), layout), a @ b.T)
