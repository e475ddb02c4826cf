"""Why a pooling function refused its arguments: torch's conditions, in torch's order, with torch's texts."""

from typing import Any

import torch
from torch import Tensor

from fastconv.ops.fakes import pooled_extent

from . import checks
from .checks import require, window_pair


def _image(op: str, x: Any) -> None:
    checks.tensors(op, input=x)


def _not_empty(x: Tensor) -> None:
    require(
        x.dim() in (3, 4) and all(extent > 0 for extent in x.shape[-3:]),
        lambda: (
            "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but got:"
            + str(list(x.shape))
        ),
    )


def _windows(
    x: Tensor, kernel: tuple[int, int], step: tuple[int, int], pad: tuple[int, int], gap: tuple[int, int], ceil: bool
) -> None:
    require(step[0] != 0 and step[1] != 0, "stride should not be zero")
    for k, p, d in zip(kernel, pad, gap, strict=True):
        require(p >= 0, lambda: f"pad must be non-negative, but got pad: {p}")
        require(
            p <= int(((k - 1) * d + 1) / 2),  # as C divides
            lambda: (
                f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            ),
        )
    require(
        kernel[0] > 0 and kernel[1] > 0,
        lambda: f"kernel size should be greater than zero, but got kH: {kernel[0]} kW: {kernel[1]}",
    )
    require(
        step[0] > 0 and step[1] > 0, lambda: f"stride should be greater than zero, but got dH: {step[0]} dW: {step[1]}"
    )
    require(
        gap[0] > 0 and gap[1] > 0,
        lambda: f"dilation should be greater than zero, but got dilationH: {gap[0]} dilationW: {gap[1]}",
    )
    _not_empty(x)
    channels, height, width = x.shape[-3:]
    out = [
        pooled_extent(extent, k, s, p, d, ceil)
        for extent, k, s, p, d in zip((height, width), kernel, step, pad, gap, strict=True)
    ]
    require(
        out[0] >= 1 and out[1] >= 1,
        lambda: (
            f"Given input size: ({channels}x{height}x{width}). Calculated output size: ({channels}x{out[0]}x{out[1]}). "
            "Output size is too small"
        ),
    )


def _step(op: str, stride: Any, kernel: tuple[int, int]) -> tuple[int, int]:
    if stride is None or (isinstance(stride, list | tuple) and len(stride) == 0):
        return kernel
    return window_pair(op, "stride", stride, "either be omitted, a single int, or a tuple of two ints")


def max_pool2d(x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> None:
    op = "max_pool2d"
    _image(op, x)
    checks.integers(op, kernel_size=kernel_size, stride=stride or (), padding=padding, dilation=dilation)
    kernel = window_pair(op, "kernel_size", kernel_size, "either be a single int, or a tuple of two ints")
    step = _step(op, stride, kernel)
    pad = window_pair(op, "padding", padding, "either be a single int, or a tuple of two ints")
    require(
        not isinstance(dilation, list | tuple) or len(dilation) in (1, 2),
        lambda: f"{op}: dilation must be either a single int, or a tuple of two ints",
    )
    gap = window_pair(op, "dilation", dilation, "")
    require(x.dim() in (3, 4), "non-empty 3D or 4D (batch mode) tensor expected for input")
    _windows(x, kernel, step, pad, gap, ceil_mode)
    checks.below_31_bits(op, kernel_size=kernel, stride=step, padding=pad, dilation=gap)
    checks.float_dtype(op, x)


def avg_pool2d(x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, divisor: Any) -> None:
    op = "avg_pool2d"
    _image(op, x)
    checks.integers(op, kernel_size=kernel_size, stride=stride or (), padding=padding)
    kernel = window_pair(op, "kernel_size", kernel_size, "either be a single int, or a tuple of two ints")
    step = _step(op, stride, kernel)
    pad = window_pair(op, "padding", padding, "either be a single int, or a tuple of two ints")
    if divisor is not None:
        checks.integers(op, divisor_override=divisor)
    require(divisor is None or divisor != 0, "divisor must be not zero")
    if x.dim() == 0:
        raise IndexError("Dimension specified as -3 but tensor has no dimensions")
    if x.dim() < 3:
        raise IndexError(f"Dimension out of range (expected to be in range of [-{x.dim()}, {x.dim() - 1}], but got -3)")
    _windows(x, kernel, step, pad, (1, 1), ceil_mode)
    checks.below_31_bits(op, kernel_size=kernel, stride=step, padding=pad)
    checks.float_dtype(op, x)


def _adaptive_size(op: str, x: Any, output_size: Any, wrong_count: str) -> tuple[Any, ...]:
    _image(op, x)
    if output_size is None or isinstance(output_size, int | torch.SymInt):
        return output_size, output_size
    sizes = tuple(output_size)
    checks.integers(op, output_size=tuple(size for size in sizes if size is not None))
    if x.dim() <= len(sizes):
        raise ValueError(f"Input dimension should be at least {len(sizes) + 1}")
    require(len(sizes) == 2, wrong_count)
    return sizes


def adaptive_avg_pool2d(x: Any, output_size: Any) -> None:
    op = "adaptive_avg_pool2d"
    sizes = _adaptive_size(op, x, output_size, f"{op}: output_size must be 2")
    require(x.dim() in (3, 4), lambda: f"{op}(): Expected 3D or 4D tensor, but got {list(x.shape)}")
    wanted = [have if want is None else want for have, want in zip(x.shape[-2:], sizes, strict=True)]
    for axis in range(x.dim() - 2, x.dim()):
        require(
            x.shape[axis] > 0 or wanted == [1, 1],  # torch takes the mean of nothing then
            lambda: (
                f"{op}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
                f"{list(x.shape)} with dimension {axis} being empty"
            ),
        )
    require(
        all(size is None or size >= 0 for size in sizes),
        lambda: (
            f"{op}: elements of output_size must be greater than or equal to 0 but received "
            f"{{{', '.join(str(size) for size in sizes)}}}"
        ),
    )
    _result(op, x, wanted)
    checks.float_dtype(op, x)


def adaptive_max_pool2d(x: Any, output_size: Any) -> None:
    op = "adaptive_max_pool2d"
    sizes = _adaptive_size(op, x, output_size, f"{op}(): internal error: output_size.size() must be 2")
    require(x.dim() in (3, 4), lambda: f"{op}(): Expected 3D or 4D tensor, but got: {list(x.shape)}")
    for axis, extent in enumerate(x.shape):
        require(
            extent > 0 or (axis == 0 and x.dim() == 4),
            lambda: (
                f"{op}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
                f"{list(x.shape)} with dimension {axis} being empty"
            ),
        )
    wanted = [have if want is None else want for have, want in zip(x.shape[-2:], sizes, strict=True)]
    for size in wanted:
        require(
            size >= 0,
            lambda: f"Trying to create tensor with negative dimension {size}: {[*x.shape[:-2], *wanted]}",
        )
    _result(op, x, wanted)
    checks.float_dtype(op, x)


def _result(op: str, x: Tensor, size: Any) -> None:
    checks.below_31_bits(op, output_size=list(size))
    checks.fits_memory([*x.shape[:-2], *size], x.dtype)
