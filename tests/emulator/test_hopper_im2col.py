"""im2col loads of the emulator against the definition of a convolution's matrix, and what the driver would refuse.

A row of that matrix is an output pixel; a load takes `pixels` of them, for one tap of the filter and some channels.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from emulator_build import build_kernels
from test_hopper_products import call, swizzle


@pytest.fixture(scope="module")
def columns():
    return build_kernels("im2col_columns.cu")


@dataclass(frozen=True)
class Column:
    """A load; corners, steps and offsets outermost dimension first, as shapes are."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    step: tuple[int, ...]
    at: tuple[int, ...]  # image, base pixel, channel
    offset: tuple[int, ...]
    channels: int = 8
    pixels: int = 16
    span: int = 0


def load(columns, tensor: np.ndarray, c: Column) -> np.ndarray:
    """(pixels, channels), the swizzle undone."""

    def inner_first(numbers):
        return np.array(list(numbers)[::-1], np.int64)

    image = np.full(max(c.channels * c.pixels * 4, 4), 255, np.uint8)
    strides = inner_first(s // tensor.itemsize for s in tensor.strides)
    geometry = map(inner_first, (c.lower, c.upper, c.step))
    place = map(inner_first, (c.at, c.offset))
    call(
        columns.load_column, tensor.ndim, tensor, inner_first(tensor.shape), strides, *geometry, c.channels, c.pixels,
        *place, c.span, image,
    )  # fmt: skip
    words = image.view(np.float32)[swizzle(np.arange(len(image)), c.span)[::4] // 4]
    return words.reshape(c.pixels, c.channels)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


# ---- convolutions --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Convolution:
    """One number for each spatial dimension, outermost first; padding before and after."""

    shape: tuple[int, ...]  # N, then the image, then C
    filter: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def outputs(self) -> list[int]:
        axes = zip(self.shape[1:-1], self.filter, self.stride, self.padding, self.dilation, strict=True)
        return [(e + sum(pad) - (f - 1) * d - 1) // s + 1 for e, f, s, pad, d in axes]

    def rows(self, x: np.ndarray, tap: tuple[int, ...]) -> np.ndarray:
        """The whole matrix for one tap: (output pixels, C), from the definition."""
        matrix = []
        for n in range(self.shape[0]):
            for pixel in itertools.product(*map(range, self.outputs())):
                axes = zip(pixel, self.stride, self.padding, tap, self.dilation, strict=True)
                at = tuple(o * s - pad[0] + t * d for o, s, pad, t, d in axes)
                inside = all(0 <= a < extent for a, extent in zip(at, self.shape[1:-1], strict=True))
                matrix.append(x[(n, *at)] if inside else np.zeros(self.shape[-1], x.dtype))
        return np.array(matrix)

    def column(self, first: int, tap: tuple[int, ...], channel: int, **size: int) -> Column:
        """The load of output pixels from `first` on."""
        n, *pixel = np.unravel_index(first, (self.shape[0], *self.outputs()))
        axes = list(zip(self.filter, self.padding, self.dilation, strict=True))
        base = [int(o) * s - pad[0] for o, s, pad in zip(pixel, self.stride, self.padding, strict=True)]
        return Column(
            lower=tuple(-pad[0] for _, pad, _ in axes),
            upper=tuple(pad[1] - (f - 1) * d for f, pad, d in axes),
            step=self.stride,
            at=(int(n), *base, channel),
            offset=tuple(t * d for t, d in zip(tap, self.dilation, strict=True)),
            **size,
        )


def convolution(shape, window, stride=1, padding=0, dilation=1) -> Convolution:
    axes = len(shape) - 2

    def each(value):
        return value if isinstance(value, tuple) else (value,) * axes

    sides = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    return Convolution(shape, window, each(stride), sides, each(dilation))


CONVOLUTIONS = {
    "plain": convolution((2, 5, 6, 8), (3, 3)),
    "padded": convolution((2, 5, 6, 8), (3, 3), padding=1),
    "one pixel": convolution((3, 1, 1, 8), (1, 1)),
    "stride": convolution((2, 9, 7, 12), (3, 3), stride=2, padding=1),
    "uneven": convolution((1, 11, 10, 8), (2, 5), stride=(3, 2), padding=((2, 0), (1, 3)), dilation=(2, 1)),
    "stride 8": convolution((2, 19, 17, 8), (3, 3), stride=8, padding=3),
    "more padding than image": convolution((2, 2, 3, 8), (3, 3), padding=7),
    "dilated": convolution((1, 12, 12, 8), (3, 3), dilation=4, padding=4),
    "cropped": convolution((2, 8, 9, 8), (3, 3), padding=((-1, -2), (-3, 0))),
    "line": convolution((3, 13, 8), (4,), stride=3, padding=2),
    "volume": convolution((2, 3, 4, 5, 8), (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_columns_are_rows_of_the_convolutions_matrix(columns, name):
    """Every tap, from every seventh output pixel on: over the ends of rows, images, and the batch."""
    c = CONVOLUTIONS[name]
    x = numbered(c.shape)
    for tap in itertools.product(*map(range, c.filter)):
        matrix = c.rows(x, tap)
        beyond = np.vstack([matrix, np.zeros((16, c.shape[-1]), x.dtype)])
        for first in range(0, len(matrix), 7):
            got = load(columns, x, c.column(first, tap, 0))
            np.testing.assert_array_equal(got, beyond[first : first + 16, :8], err_msg=f"tap {tap}, pixel {first}")


@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize(("channel", "channels"), [(0, 8), (4, 8), (8, 8), (20, 8), (16, 4), (-4, 8)])
def test_channels_and_swizzles(columns, channel, channels, span, copies, monkeypatch):
    """20 channels: tails are zeros."""
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    c = convolution((2, 4, 5, 20), (3, 3), padding=1)
    x = numbered(c.shape)
    matrix = c.rows(x, (2, 1))[13:45]
    expected = np.zeros((32, 48), x.dtype)
    expected[: len(matrix), 8:28] = matrix
    got = load(columns, x, c.column(13, (2, 1), channel, channels=channels, pixels=32, span=span))
    np.testing.assert_array_equal(got, expected[:, 8 + channel : 8 + channel + channels])


def test_strides_of_a_slice(columns):
    """Every second row of a larger image, some of its channels."""
    c = convolution((2, 4, 5, 8), (3, 3), padding=1)
    x = numbered((2, 8, 6, 24))[:, ::2, 1:, 4:12]
    np.testing.assert_array_equal(load(columns, x, c.column(3, (0, 2), 0)), c.rows(x, (0, 2))[3:19])


def test_images_outside_the_batch_are_zeros(columns):
    c = convolution((1, 4, 4, 8), (1, 1))
    column = replace(c.column(0, (0, 0), 0, pixels=32), at=(-1, 0, 0, 0))
    expected = np.vstack([np.zeros((16, 8)), numbered((16, 8))])
    np.testing.assert_array_equal(load(columns, numbered(c.shape), column), expected)


def test_the_largest_column(columns):
    c = convolution((5, 16, 16, 4), (1, 1))
    got = load(columns, numbered(c.shape), c.column(256, (0, 0), 0, channels=4, pixels=1024))
    np.testing.assert_array_equal(got, numbered(c.shape).reshape(-1, 4)[256:])


# ---- refusals ------------------------------------------------------------------------------------------------------
IMAGES = (2, 5, 6, 8)
CLEAN = CONVOLUTIONS["plain"].column(0, (0, 0), 0)
REFUSALS = [
    (IMAGES, {"lower": (0, -129)}, "lower corner 0 is -129, not -128 to 127"),
    (IMAGES, {"lower": (128, 0)}, "lower corner 1 is 128, not -128 to 127"),
    (IMAGES, {"upper": (-129, 0)}, "upper corner 1 is -129, not -128 to 127"),
    (IMAGES, {"upper": (0, 128)}, "upper corner 0 is 128, not -128 to 127"),
    (IMAGES, {"upper": (0, -6)}, "the box of base pixels is empty along dimension 1: from 0 to -1"),
    (IMAGES, {"lower": (3, 0), "upper": (-2, 0)}, "the box of base pixels is empty along dimension 2: from 3 to 2"),
    (IMAGES, {"step": (9, 1)}, "element stride 2 is 9, not 1 to 8"),
    (IMAGES, {"step": (1, 0)}, "element stride 1 is 0, not 1 to 8"),
    (IMAGES, {"channels": 260}, "260 channels per pixel, not 1 to 256"),
    (IMAGES, {"channels": 0}, "0 channels per pixel, not 1 to 256"),
    (IMAGES, {"channels": 6}, "a row of the box has 24 bytes, not a multiple of 16"),
    (IMAGES, {"channels": 16, "span": 32}, "a row of the box has 64 bytes, more than the swizzle's 32"),
    (IMAGES, {"pixels": 1025}, "1025 pixels per column, not 1 to 1024"),
    (IMAGES, {"pixels": 0}, "0 pixels per column, not 1 to 1024"),
    ((2, 5, 6, 7), {}, "stride 1 is 28 bytes, not a multiple of 16 below 2^40"),
    ((0, 5, 6, 8), {}, "extent 3 is 0, not 1 to 2^32"),
    ((5, 8), {"lower": (), "upper": (), "step": (), "at": (0, 0), "offset": ()}, "has 3 to 5 dimensions, not 2"),
]


def test_the_clean_twin_of_the_refusals(columns):
    load(columns, numbered(IMAGES), CLEAN)


@pytest.mark.parametrize(("shape", "changes", "message"), REFUSALS, ids=[message for _, _, message in REFUSALS])
def test_tensor_map_that_the_driver_would_refuse(columns, shape, changes, message):
    with pytest.raises(RuntimeError) as error:
        load(columns, np.zeros(shape, np.float32), replace(CLEAN, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shape", "corner", "message"),
    [((2, 40000, 4), 32768, "-32768 to 32767"), ((1, 40, 2, 2, 4), 16, "-16 to 15")],
    ids=["rank 3", "rank 5"],
)
def test_corners_of_other_ranks(columns, shape, corner, message):
    """The limit depends on the rank: one less is taken."""
    axes, x = len(shape) - 2, numbered(shape)
    zeros = (0,) * axes
    last = (corner - 1, *zeros[1:])
    column = Column(last, zeros, (1,) * axes, (0, *last, 0), zeros, channels=4)
    got = load(columns, x, column)
    np.testing.assert_array_equal(got[0], x[(0, *last)])
    with pytest.raises(RuntimeError) as error:
        load(columns, x, replace(column, lower=(corner, *zeros[1:])))
    assert message in str(error.value)


def test_tensor_that_starts_between_two_multiples_of_16_bytes(columns):
    x = np.zeros(1000, np.float32)
    first = 1 if x.ctypes.data % 16 == 0 else 0
    x = x[first : first + 480].reshape(IMAGES)
    with pytest.raises(RuntimeError) as error:
        load(columns, x, CLEAN)
    assert "does not start on a 16-byte boundary" in str(error.value)
