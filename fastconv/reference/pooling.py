"""Max, average and adaptive pooling with their gradients, from the definitions."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .conv import Pair, pair, tap_slices

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit along one axis; ceil_mode also counts a window that hangs over the end.

    A window that would start in the padding behind the image is dropped: it would hold no pixel.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= size + padding:
        windows -= 1
    return windows


def _geometry(
    size: Sequence[int], kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, ceil_mode: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], list[int]]:
    """Kernel, stride, padding and dilation as pairs, and the output's size; no stride, or (), is the kernel's."""
    kernel = pair(kernel_size)
    steps = kernel if stride is None or stride == () or stride == [] else pair(stride)
    pads, gaps = pair(padding), pair(dilation)
    axes = zip(size, kernel, steps, pads, gaps, strict=True)
    return kernel, steps, pads, gaps, [pooled_size(*axis, ceil_mode=ceil_mode) for axis in axes]


def _framed(
    x: npt.NDArray, outside: float, kernel: Sequence[int], steps: Sequence[int], pads: Sequence[int],
    gaps: Sequence[int], out: Sequence[int],
) -> npt.NDArray:  # fmt: skip
    """x in a frame of `outside`, wide enough for every tap of every window, those of ceil_mode too."""
    frame = [(0, 0), (0, 0)]
    for size, k, step, pad, gap, count in zip(x.shape[2:], kernel, steps, pads, gaps, out, strict=True):
        reach = (count - 1) * step + gap * (k - 1) + 1
        frame.append((pad, max(0, reach - size - pad)))
    return np.pad(x, frame, constant_values=outside)


@np.errstate(all="ignore")
def max_pool2d(
    x: npt.ArrayLike,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Indices]:
    """The largest pixel of every window, and its index h*W + w in its image.

    Padding is never chosen. The first of equal pixels wins, so a window of -Inf gives its first index. A NaN is larger
    than anything, and the last NaN of a window wins. A window without a pixel (only dilation makes one) is -Inf at -1.
    """
    x = np.asarray(x, np.float64)
    kernel, steps, pads, gaps, out = _geometry(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    height, width = x.shape[2:]
    where = np.arange(height * width).reshape(1, 1, height, width)
    values = _framed(x, -np.inf, kernel, steps, pads, gaps, out)
    places = _framed(where, -1, kernel, steps, pads, gaps, out)
    best = np.full((*x.shape[:2], *out), -np.inf)
    index = np.full(best.shape, -1, dtype=np.int64)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows, columns = tap_slices(r, s, out, steps, gaps)
            value, place = values[:, :, rows, columns], places[:, :, rows, columns]
            better = (place >= 0) & ((index < 0) | (value > best) | np.isnan(value))
            best = np.where(better, value, best)
            index = np.where(better, place, index)
    return best, index


def max_pool2d_backward(dy: npt.ArrayLike, indices: npt.ArrayLike, input_size: Sequence[int]) -> Array:
    """dx: every dy goes to the pixel that its window chose. Serves adaptive max pooling as well."""
    dy, index = np.asarray(dy, np.float64), np.asarray(indices, np.int64)
    n, c, height, width = input_size
    dx = np.zeros((n, c, height * width))
    image, channel = np.indices(dy.shape[:2]).reshape(2, n, c, 1, 1)
    chosen = index >= 0
    every = np.broadcast_arrays(image, channel, index)
    np.add.at(dx, tuple(axis[chosen] for axis in every), dy[chosen])
    return dx.reshape(n, c, height, width)


def _divisors(
    size: Sequence[int], kernel: Sequence[int], steps: Sequence[int], pads: Sequence[int], out: Sequence[int],
    count_include_pad: bool, divisor_override: int | None,
) -> Array:  # fmt: skip
    """What each window's sum is divided by, (P, Q).

    Padding inside the window counts with count_include_pad; what ceil_mode adds behind the padding never does.
    """
    if divisor_override is not None:
        if divisor_override == 0:
            raise ValueError("divisor must be not zero")
        return np.full((out[0], out[1]), float(divisor_override))
    counts = []
    for extent, k, step, pad, windows in zip(size, kernel, steps, pads, out, strict=True):
        start = np.arange(windows) * step - pad
        end = np.minimum(start + k, extent + pad)
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, extent)
        counts.append((end - start).astype(np.float64))
    return np.outer(counts[0], counts[1])


@np.errstate(all="ignore")
def avg_pool2d(
    x: npt.ArrayLike,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The sum of every window over its divisor: see `_divisors` for which one."""
    x = np.asarray(x, np.float64)
    kernel, steps, pads, gaps, out = _geometry(x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    framed = _framed(x, 0.0, kernel, steps, pads, gaps, out)
    total = np.zeros((*x.shape[:2], *out))
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows, columns = tap_slices(r, s, out, steps, gaps)
            total += framed[:, :, rows, columns]
    return total / _divisors(x.shape[2:], kernel, steps, pads, out, count_include_pad, divisor_override)


@np.errstate(all="ignore")
def avg_pool2d_backward(
    dy: npt.ArrayLike,
    input_size: Sequence[int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """dx: every dy, over its window's divisor, goes to each pixel of the window."""
    dy = np.asarray(dy, np.float64)
    n, c, height, width = input_size
    kernel, steps, pads, gaps, out = _geometry((height, width), kernel_size, stride, padding, 1, ceil_mode)
    share = dy / _divisors((height, width), kernel, steps, pads, out, count_include_pad, divisor_override)
    framed = _framed(np.zeros((n, c, height, width)), 0.0, kernel, steps, pads, gaps, out)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows, columns = tap_slices(r, s, out, steps, gaps)
            framed[:, :, rows, columns] += share
    return framed[:, :, pads[0] : pads[0] + height, pads[1] : pads[1] + width].copy()


AdaptiveSize = int | None | Sequence[int | None]


def _adaptive_windows(
    size: Sequence[int], output_size: AdaptiveSize
) -> tuple[tuple[int, int], Iterator[tuple[int, int, slice, slice]]]:
    """The output's size, and (p, q, rows, columns) of every window.

    Window p of P covers the rows floor(p*H/P) to ceil((p + 1)*H/P): windows overlap where P does not divide H. None
    keeps an axis as it is.
    """
    wanted = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    out_h, out_w = (axis if want is None else int(want) for axis, want in zip(size, wanted, strict=True))

    def window(i: int, extent: int, count: int) -> slice:
        return slice(i * extent // count, -(-(i + 1) * extent // count))

    windows = ((p, q, window(p, size[0], out_h), window(q, size[1], out_w)) for p in range(out_h) for q in range(out_w))
    return (out_h, out_w), windows


@np.errstate(all="ignore")
def adaptive_avg_pool2d(x: npt.ArrayLike, output_size: AdaptiveSize) -> Array:
    """The mean of every adaptive window."""
    x = np.asarray(x, np.float64)
    out, windows = _adaptive_windows(x.shape[2:], output_size)
    y = np.zeros((*x.shape[:2], *out))
    for p, q, rows, columns in windows:
        y[:, :, p, q] = x[:, :, rows, columns].mean(axis=(2, 3))
    return y


@np.errstate(all="ignore")
def adaptive_avg_pool2d_backward(dy: npt.ArrayLike, input_size: Sequence[int]) -> Array:
    """dx: every dy is shared evenly by its window's pixels."""
    dy = np.asarray(dy, np.float64)
    dx = np.zeros(tuple(input_size))
    _, windows = _adaptive_windows(input_size[2:], dy.shape[2:])
    for p, q, rows, columns in windows:
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        dx[:, :, rows, columns] += (dy[:, :, p, q] / pixels)[:, :, None, None]
    return dx


@np.errstate(all="ignore")
def adaptive_max_pool2d(x: npt.ArrayLike, output_size: AdaptiveSize) -> tuple[Array, Indices]:
    """The largest pixel of every adaptive window and its index h*W + w; NaN and ties as in `max_pool2d`."""
    x = np.asarray(x, np.float64)
    out, windows = _adaptive_windows(x.shape[2:], output_size)
    y = np.zeros((*x.shape[:2], *out))
    index = np.zeros(y.shape, dtype=np.int64)
    width = x.shape[3]
    for p, q, rows, columns in windows:
        if x.shape[0] == 0 or x.shape[1] == 0:
            continue
        window = x[:, :, rows, columns]
        best, place = max_pool2d(window, window.shape[2:])
        row, column = np.divmod(place[:, :, 0, 0], window.shape[3])
        y[:, :, p, q] = best[:, :, 0, 0]
        index[:, :, p, q] = (rows.start + row) * width + columns.start + column
    return y, index
