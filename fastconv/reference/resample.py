"""Nearest upsampling, upsampling followed by convolution, and torch's unfold and fold, from the definitions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .conv import (
    Pair,
    conv2d,
    conv2d_input_grad,
    conv2d_output_size,
    conv2d_weight_grad,
    four_sides,
    pad_image,
    pair,
    tap_slices,
)

Array = npt.NDArray[np.float64]
Scale = float | Sequence[float]


def _nearest_sources(size: int, out: int, scale: float | None) -> npt.NDArray[np.int64]:
    """The source of each of `out` pixels: floor(i / scale), and never past the end; no scale means out / size.

    torch multiplies by the reciprocal in float32; near an integer the floor depends on that, so it is done here too.
    """
    step = np.float32(1.0 / scale) if scale is not None else np.float32(size) / np.float32(max(out, 1))
    sources = np.floor(np.arange(out).astype(np.float32) * step).astype(np.int64)
    return np.minimum(sources, size - 1)


def _plan(
    size: Sequence[int], output_size: Pair | None, scale_factor: Scale | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The source row of each output row, and the source column of each output column."""
    if output_size is not None:
        outs = pair(output_size)
        return _nearest_sources(size[0], outs[0], None), _nearest_sources(size[1], outs[1], None)
    if scale_factor is None:
        raise ValueError("upsample_nearest2d: expected one of output_size and scale_factor, but got neither")
    scales = (scale_factor, scale_factor) if isinstance(scale_factor, int | float) else tuple(scale_factor)
    rows, columns = (_nearest_sources(n, int(np.floor(n * f)), float(f)) for n, f in zip(size, scales, strict=True))
    return rows, columns


def upsample_nearest2d(x: npt.ArrayLike, output_size: Pair | None = None, scale_factor: Scale | None = None) -> Array:
    """y[p, q] = x[floor(p / factor), floor(q / factor)]; torch's mode='nearest'."""
    x = np.asarray(x, np.float64)
    rows, columns = _plan(x.shape[2:], output_size, scale_factor)
    return x[:, :, rows][:, :, :, columns]


def upsample_nearest2d_backward(
    dy: npt.ArrayLike, input_size: Sequence[int], output_size: Pair | None = None, scale_factor: Scale | None = None
) -> Array:
    """dx: every pixel receives the sum over its copies."""
    dy = np.asarray(dy, np.float64)
    rows, columns = _plan(input_size[2:], output_size, scale_factor)
    dx = np.zeros(tuple(input_size))
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            dx[:, :, h, w] += dy[:, :, p, q]
    return dx


def upsample_conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    scale_factor: Pair = 2,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    scale: npt.ArrayLike | None = None,
    shift: npt.ArrayLike | None = None,
    residual: npt.ArrayLike | None = None,
    act: str = "identity",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> Array:
    """conv2d of x enlarged by a whole factor; see `conv2d` for the rest."""
    large = upsample_nearest2d(x, scale_factor=pair(scale_factor))
    return conv2d(large, w, bias, stride, padding, dilation, groups, scale, shift, residual, act, act_param, alpha)


def upsample_conv2d_input_grad(
    dy: npt.ArrayLike,
    w: npt.ArrayLike,
    input_size: Sequence[int],
    scale_factor: Pair = 2,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """dx: the convolution's input gradient, summed over each pixel's copies."""
    factors = pair(scale_factor)
    n, c, height, width = input_size
    large = conv2d_input_grad(dy, w, (n, c, height * factors[0], width * factors[1]), stride, padding, dilation, groups)
    return upsample_nearest2d_backward(large, input_size, scale_factor=factors)


def upsample_conv2d_weight_grad(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight_size: Sequence[int],
    scale_factor: Pair = 2,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """dw: the convolution's weight gradient at the enlarged x."""
    large = upsample_nearest2d(x, scale_factor=pair(scale_factor))
    return conv2d_weight_grad(dy, large, weight_size, stride, padding, dilation, groups)


def im2col(x: npt.ArrayLike, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1) -> Array:
    """(N, C, H, W) -> (N, C*R*S, P*Q): row (c, r, s) holds the pixels that tap (r, s) of channel c meets (unfold)."""
    x = np.asarray(x, np.float64)
    kernel, steps, gaps = pair(kernel_size), pair(stride), pair(dilation)
    out = conv2d_output_size(x.shape[2:], kernel, steps, padding, gaps)
    padded = pad_image(x, four_sides(padding))
    columns = np.zeros((*x.shape[:2], *kernel, *out))
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows, cols = tap_slices(r, s, out, steps, gaps)
            columns[:, :, r, s] = padded[:, :, rows, cols]
    return columns.reshape(x.shape[0], x.shape[1] * kernel[0] * kernel[1], out[0] * out[1])


def col2im(
    x: npt.ArrayLike, output_size: Pair, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1
) -> Array:
    """The transpose of im2col: (N, C*R*S, P*Q) -> (N, C, H, W), overlapping entries added up (fold)."""
    x = np.asarray(x, np.float64)
    kernel, steps, gaps, size = pair(kernel_size), pair(stride), pair(dilation), pair(output_size)
    out = conv2d_output_size(size, kernel, steps, padding, gaps)
    top, bottom, left, right = four_sides(padding)
    n, c = x.shape[0], x.shape[1] // (kernel[0] * kernel[1])
    columns = x.reshape(n, c, *kernel, *out)
    padded = np.zeros((n, c, size[0] + top + bottom, size[1] + left + right))
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows, cols = tap_slices(r, s, out, steps, gaps)
            padded[:, :, rows, cols] += columns[:, :, r, s]
    return padded[:, :, top : top + size[0], left : left + size[1]].copy()
