"""Convolution, its three gradients and its transpose, from the definitions.

    y[n, k, p, q] = sum over c, r, s of  x[n, c, h, w] * weight[k, c, r, s]
    h = p*stride - top + r*dilation,  w = q*stride - left + s*dilation

The filter is not flipped. Rows and columns outside the image hold real zeros, as in torch: a NaN or Inf in a weight
therefore reaches the outputs at the border (0 * NaN = NaN). Kernels that skip those products instead differ from this
only for non-finite weights; torch itself does both (its depthwise path for float32 skips).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .activation import activation

Array = npt.NDArray[np.float64]
Pair = int | Sequence[int]


def pair(value: Pair) -> tuple[int, int]:
    """An int or a sequence of one or two ints as (vertical, horizontal)."""
    if isinstance(value, int | np.integer):
        return int(value), int(value)
    values = [int(v) for v in value]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def four_sides(padding: Pair | str, kernel: Pair = 1, dilation: Pair = 1) -> tuple[int, int, int, int]:
    """Any form of padding as (top, bottom, left, right): four values, torch's one or two, 'valid' or 'same'.

    'same' puts the odd one of an uneven total at the bottom and at the right.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise ValueError(f"conv2d: expected padding to be 'same' or 'valid', but got {padding!r}")
        rows, columns = ((k - 1) * d for k, d in zip(pair(kernel), pair(dilation), strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    if not isinstance(padding, int | np.integer) and len(padding) == 4:
        top, bottom, left, right = (int(v) for v in padding)
        return top, bottom, left, right
    vertical, horizontal = pair(padding)
    return vertical, vertical, horizontal, horizontal


def conv2d_output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1
) -> tuple[int, int]:
    """(P, Q) of an (H, W) image: P = (H + top + bottom - dilation*(R - 1) - 1) // stride + 1."""
    top, bottom, left, right = four_sides(padding, kernel, dilation)
    strides, dilations = pair(stride), pair(dilation)
    extents = (size[0] + top + bottom, size[1] + left + right)
    p, q = (
        (extent - d * (k - 1) - 1) // step + 1
        for extent, k, step, d in zip(extents, kernel, strides, dilations, strict=True)
    )
    return p, q


def pad_image(x: Array, sides: Sequence[int], value: float = 0.0) -> Array:
    """x with (top, bottom, left, right) rows and columns of `value` around it."""
    top, bottom, left, right = sides
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def tap_slices(
    r: int, s: int, out: Sequence[int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[slice, slice]:
    """The rows and columns of the padded image that tap (r, s) meets as (p, q) runs over the output."""
    top, left = r * dilation[0], s * dilation[1]
    rows = slice(top, top + (out[0] - 1) * stride[0] + 1, stride[0])
    columns = slice(left, left + (out[1] - 1) * stride[1] + 1, stride[1])
    return rows, columns


def _grouped(x: Array, groups: int) -> Array:
    """(N, C, P, Q) as (N, G, C/G, P*Q): within a group every tap is one matrix product."""
    n, c, p, q = x.shape
    return x.reshape(n, groups, c // groups, p * q)


@np.errstate(all="ignore")
def correlate(
    x: Array, w: Array, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, groups: int = 1
) -> Array:
    """The sum at the head of this file: (N, C, H, W), (K, C/G, R, S) -> (N, K, P, Q)."""
    steps, gaps = pair(stride), pair(dilation)
    filters, channels, kernel_h, kernel_w = w.shape
    sides = four_sides(padding, (kernel_h, kernel_w), gaps)
    out = conv2d_output_size(x.shape[2:], (kernel_h, kernel_w), steps, sides, gaps)
    padded = pad_image(x, sides)
    y = np.zeros((x.shape[0], groups, filters // groups, out[0] * out[1]))
    for r in range(kernel_h):
        for s in range(kernel_w):
            rows, columns = tap_slices(r, s, out, steps, gaps)
            pixels = _grouped(padded[:, :, rows, columns], groups)  # (N, G, C/G, P*Q)
            y += w[:, :, r, s].reshape(groups, filters // groups, channels) @ pixels  # (G, K/G, C/G) @ ...
    return y.reshape(x.shape[0], filters, *out)


def per_channel(v: npt.ArrayLike | None, absent: float) -> Array:
    """A (K,) vector shaped to broadcast over (N, K, P, Q); `absent` where there is none."""
    return np.asarray(absent if v is None else v, dtype=np.float64).reshape(1, -1, 1, 1)


@np.errstate(all="ignore")
def epilogue(
    y: Array,
    bias: npt.ArrayLike | None,
    scale: npt.ArrayLike | None,
    shift: npt.ArrayLike | None,
    residual: npt.ArrayLike | None,
    act: str,
    act_param: float | None,
    alpha: npt.ArrayLike | None,
) -> Array:
    """act(scale*(y + bias) + shift + residual) over (N, K, P, Q)."""
    if bias is not None:
        y = y + per_channel(bias, 0.0)
    if scale is not None:
        y = y * per_channel(scale, 1.0)
    if shift is not None:
        y = y + per_channel(shift, 0.0)
    if residual is not None:
        y = y + np.asarray(residual, dtype=np.float64)
    return activation(y, act, act_param, alpha)


def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
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
    """y = act(scale[k] * (conv(x, w) + bias[k]) + shift[k] + residual).

    x (N, C, H, W), w (K, C/G, R, S), bias, scale and shift (K,), residual (N, K, P, Q), alpha as in `activation`;
    padding is (top, bottom, left, right), torch's one or two values, 'same' or 'valid'.
    """
    y = correlate(np.asarray(x, np.float64), np.asarray(w, np.float64), stride, padding, dilation, groups)
    return epilogue(y, bias, scale, shift, residual, act, act_param, alpha)


def conv2d_bn_act(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    bn_weight: npt.ArrayLike | None = None,
    bn_bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    residual: npt.ArrayLike | None = None,
    act: str = "relu",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> Array:
    """y = act((conv(x, w) + bias - mean) / sqrt(var + eps) * bn_weight + bn_bias + residual), unfused."""
    y = conv2d(x, w, bias, stride, padding, dilation, groups)
    normal = (y - per_channel(running_mean, 0.0)) / np.sqrt(per_channel(running_var, 1.0) + eps)
    return epilogue(normal, None, bn_weight, bn_bias, residual, act, act_param, alpha)


@np.errstate(all="ignore")
def conv2d_input_grad(
    dy: npt.ArrayLike,
    w: npt.ArrayLike,
    input_size: Sequence[int],
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """dx: every product w[k, c, r, s] * dy[n, k, p, q] goes back to the x that it was made with."""
    dy, w = np.asarray(dy, np.float64), np.asarray(w, np.float64)
    steps, gaps = pair(stride), pair(dilation)
    filters, channels, kernel_h, kernel_w = w.shape
    top, bottom, left, right = four_sides(padding, (kernel_h, kernel_w), gaps)
    n, c, height, width = input_size
    out = dy.shape[2:]
    padded = np.zeros((n, c, height + top + bottom, width + left + right))
    gradients = _grouped(dy, groups)  # (N, G, K/G, P*Q)
    for r in range(kernel_h):
        for s in range(kernel_w):
            tap = w[:, :, r, s].reshape(groups, filters // groups, channels)
            rows, columns = tap_slices(r, s, out, steps, gaps)
            padded[:, :, rows, columns] += (tap.transpose(0, 2, 1) @ gradients).reshape(n, c, *out)
    return padded[:, :, top : top + height, left : left + width].copy()


@np.errstate(all="ignore")
def conv2d_weight_grad(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight_size: Sequence[int],
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, c, p*stride - top + r*dilation, ...]."""
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    steps, gaps = pair(stride), pair(dilation)
    filters, channels, kernel_h, kernel_w = weight_size
    padded = pad_image(x, four_sides(padding, (kernel_h, kernel_w), gaps))
    dw = np.zeros((filters, channels, kernel_h, kernel_w))
    gradients = _grouped(dy, groups)  # (N, G, K/G, P*Q)
    for r in range(kernel_h):
        for s in range(kernel_w):
            rows, columns = tap_slices(r, s, dy.shape[2:], steps, gaps)
            pixels = _grouped(padded[:, :, rows, columns], groups)  # (N, G, C/G, P*Q)
            per_image = gradients @ pixels.transpose(0, 1, 3, 2)  # (N, G, K/G, C/G)
            dw[:, :, r, s] = per_image.sum(axis=0).reshape(filters, channels)
    return dw


def conv2d_bias_grad(dy: npt.ArrayLike) -> Array:
    """dbias[k] = sum over n, p, q of dy[n, k, p, q]."""
    return np.asarray(dy, np.float64).sum(axis=(0, 2, 3))


def conv_transpose2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Array:
    """The transpose of conv2d as a linear map: (N, C, H, W), (C, K/G, R, S) -> (N, K, P, Q).

    P = (H - 1)*stride - 2*padding + dilation*(R - 1) + output_padding + 1.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    sizes = zip(
        x.shape[2:], w.shape[2:], pair(stride), pair(padding), pair(output_padding), pair(dilation), strict=True
    )
    out = [(size - 1) * step - 2 * pad + d * (k - 1) + extra + 1 for size, k, step, pad, extra, d in sizes]
    image = (x.shape[0], w.shape[1] * groups, *out)
    return conv2d_input_grad(x, w, image, stride, padding, dilation, groups) + per_channel(bias, 0.0)


def conv_transpose2d_input_grad(
    dy: npt.ArrayLike,
    w: npt.ArrayLike,
    input_size: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Array:
    """dx is the convolution itself; rows that only output_padding >= stride could add are dropped."""
    y = correlate(np.asarray(dy, np.float64), np.asarray(w, np.float64), stride, padding, dilation, groups)
    return y[:, :, : input_size[2], : input_size[3]].copy()


def conv_transpose2d_weight_grad(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight_size: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Array:
    """dw of the transpose: conv2d's, with input and output gradient in each other's place."""
    return conv2d_weight_grad(x, dy, weight_size, stride, padding, dilation, groups)
