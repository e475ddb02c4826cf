"""Max, average and adaptive pooling with torch's signatures."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import dispatch, pool_checks
from .arguments import IntOrPair, pair

OutputSize = int | None | Sequence[int | None]


def _batched(x: Tensor) -> tuple[Tensor, bool]:
    """x with a batch axis, and whether it was added."""
    return (x, False) if x.dim() == 4 else (x.unsqueeze(0), True)


def _step(stride: IntOrPair | None, kernel: tuple[int, int]) -> tuple[int, int]:
    """The stride; None and an empty list stand for the kernel's size."""
    if stride is None or (isinstance(stride, list | tuple) and len(stride) == 0):
        return kernel
    return pair(stride)


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of every window.

    y[n, c, p, q] = max over r, s of x[n, c, p * stride - padding + r * dilation, q * stride - padding + s * dilation]

    Equivalent to ``torch.nn.functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode,
    return_indices)``.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        kernel_size, stride, padding, dilation: an int or (vertical, horizontal); stride defaults to kernel_size,
            padding is at most half of kernel_size and is never chosen.
        ceil_mode: also count a window that hangs over the end, unless it starts in the padding.
        return_indices: also return where each maximum lies, as h * W + w (int64).

    Returns:
        (N, C, P, Q), in the input's memory format, with P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1;
        with return_indices a pair of these.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: exact; NaN counts as the largest; the first of equal values is the one indexed.
    """
    try:
        if dispatch.checks_first():
            pool_checks.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
        x, added = _batched(input)
        backend = dispatch.forced_backend(input)
        operator = dispatch.operators_of(backend).max_pool2d
        kernel = pair(kernel_size)
        step = _step(stride, kernel)
        window = (kernel, step, pair(padding), pair(dilation), ceil_mode)
        if dispatch.records(x):
            y, indices = dispatch.recorded(operator, x, *window, True, backend)
        else:
            y, indices = dispatch.call(operator, x, *window, return_indices, backend)
    except Exception as error:
        rest = (kernel_size, stride, padding, dilation, ceil_mode)
        dispatch.refused(error, "max_pool2d", pool_checks.max_pool2d, input, *rest)
    if added:
        y = y.squeeze(0)
    if not return_indices:
        return y
    return y, indices.squeeze(0) if added else indices


def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of every window.

    y[n, c, p, q] = sum over r, s of x[n, c, p * stride - padding + r, q * stride - padding + s] / divisor

    Equivalent to ``torch.nn.functional.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad,
    divisor_override)``.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        kernel_size, stride, padding: an int or (vertical, horizontal); stride defaults to kernel_size.
        ceil_mode: as in `max_pool2d`.
        count_include_pad: whether padding counts in the divisor; what ceil_mode adds behind it never does.
        divisor_override: divides by this instead.

    Returns:
        (N, C, P, Q), in the input's memory format, with P = (H + 2 * padding - R) // stride + 1.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: sums in float32 (float64 for float64), rounded once.
    """
    try:
        if dispatch.checks_first() or divisor_override == 0:
            pool_checks.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, divisor_override)
        x, added = _batched(input)
        backend = dispatch.forced_backend(input)
        operator = dispatch.operators_of(backend).avg_pool2d
        kernel = pair(kernel_size)
        step = _step(stride, kernel)
        rest = (kernel, step, pair(padding), ceil_mode, count_include_pad, divisor_override or 0, backend)
        y = (dispatch.recorded if dispatch.records(x) else dispatch.call)(operator, x, *rest)
    except Exception as error:
        raw = (kernel_size, stride, padding, ceil_mode, divisor_override)
        dispatch.refused(error, "avg_pool2d", pool_checks.avg_pool2d, input, *raw)
    return y.squeeze(0) if added else y


def _output_size(x: Tensor, output_size: OutputSize) -> tuple[int, int]:
    sizes = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(sizes) != 2:
        raise RuntimeError("output_size must be 2")
    height, width = (have if want is None else want for have, want in zip(x.shape[-2:], sizes, strict=True))
    return height, width


def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """The mean of windows that share the image evenly.

    y[n, c, p, q] = mean of x[n, c, floor(p * H / P) : ceil((p + 1) * H / P), ...]

    Equivalent to ``torch.nn.functional.adaptive_avg_pool2d(input, output_size)``.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        output_size: P and Q: an int or a pair; None keeps the input's extent.

    Returns:
        (N, C, P, Q), in the input's memory format.

    Raises:
        RuntimeError, ValueError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: sums in float32 (float64 for float64), rounded once.
    """
    try:
        if dispatch.checks_first():
            pool_checks.adaptive_avg_pool2d(input, output_size)
        x, added = _batched(input)
        size = _output_size(x, output_size)
        backend = dispatch.forced_backend(input)
        operator = dispatch.operators_of(backend).adaptive_avg_pool2d
        y = (dispatch.recorded if dispatch.records(x) else dispatch.call)(operator, x, size, backend)
    except Exception as error:
        dispatch.refused(error, "adaptive_avg_pool2d", pool_checks.adaptive_avg_pool2d, input, output_size)
    return y.squeeze(0) if added else y


def adaptive_max_pool2d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The largest value of windows that share the image evenly.

    y[n, c, p, q] = max of x[n, c, floor(p * H / P) : ceil((p + 1) * H / P), ...]

    Equivalent to ``torch.nn.functional.adaptive_max_pool2d(input, output_size, return_indices)``.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        output_size: P and Q: an int or a pair; None keeps the input's extent.
        return_indices: also return where each maximum lies, as h * W + w (int64).

    Returns:
        (N, C, P, Q), in the input's memory format; with return_indices a pair of these.

    Raises:
        RuntimeError, ValueError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: exact; NaN counts as the largest; the first of equal values is the one indexed.
    """
    try:
        if dispatch.checks_first():
            pool_checks.adaptive_max_pool2d(input, output_size)
        x, added = _batched(input)
        size = _output_size(x, output_size)
        backend = dispatch.forced_backend(input)
        operator = dispatch.operators_of(backend).adaptive_max_pool2d
        if dispatch.records(x):
            y, indices = dispatch.recorded(operator, x, size, True, backend)
        else:
            y, indices = dispatch.call(operator, x, size, return_indices, backend)
    except Exception as error:
        dispatch.refused(error, "adaptive_max_pool2d", pool_checks.adaptive_max_pool2d, input, output_size)
    if added:
        y = y.squeeze(0)
    if not return_indices:
        return y
    return y, indices.squeeze(0) if added else indices
