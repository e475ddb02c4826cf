"""im2col and col2im: torch's unfold and fold."""

from typing import Any

from torch import Tensor

from . import checks, dispatch
from .arguments import IntOrPair, pair
from .checks import require


def im2col(
    x: Tensor, kernel_size: IntOrPair, stride: IntOrPair = 1, padding: IntOrPair = 0, dilation: IntOrPair = 1
) -> Tensor:
    """The windows of an image as columns of a matrix.

    y[n, (c * R + r) * S + s, p * Q + q] = x[n, c, p * stride - padding + r * dilation, ...]

    Equivalent to ``torch.nn.functional.unfold(x, kernel_size, dilation, padding, stride)``.

    Args:
        x: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        kernel_size, stride, padding, dilation: an int or (vertical, horizontal).

    Returns:
        (N, C * R * S, P * Q), contiguous, with P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: exact.
    """
    try:
        if dispatch.checks_first():
            _check_im2col(x, kernel_size, stride, padding, dilation)
        image = x if x.dim() == 4 else x.unsqueeze(0)
        backend = dispatch.forced_backend(x)
        operator = dispatch.operators_of(backend).im2col
        rest = (pair(kernel_size), pair(stride), pair(padding), pair(dilation), backend)
        y = (dispatch.recorded if dispatch.records(x) else dispatch.call)(operator, image, *rest)
    except Exception as error:
        dispatch.refused(error, "im2col", _check_im2col, x, kernel_size, stride, padding, dilation)
    return y if x.dim() == 4 else y.squeeze(0)


def col2im(
    x: Tensor,
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Tensor:
    """The transpose of `im2col`: every column is added back to the pixels of its window.

    y[n, c, p * stride - padding + r * dilation, ...] += x[n, (c * R + r) * S + s, p * Q + q]

    Equivalent to ``torch.nn.functional.fold(x, output_size, kernel_size, dilation, padding, stride)``.

    Args:
        x: (N, C * R * S, P * Q) or (C * R * S, P * Q).
        output_size: H and W: an int or a pair.
        kernel_size, stride, padding, dilation: those of the `im2col`.

    Returns:
        (N, C, H, W) or (C, H, W), contiguous.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: sums in float32 (float64 for float64) in a fixed order, rounded once.
    """
    try:
        if dispatch.checks_first():
            _check_col2im(x, output_size, kernel_size, stride, padding, dilation)
        columns = x if x.dim() == 3 else x.unsqueeze(0)
        backend = dispatch.forced_backend(x)
        operator = dispatch.operators_of(backend).col2im
        rest = (pair(output_size), pair(kernel_size), pair(stride), pair(padding), pair(dilation), backend)
        y = (dispatch.recorded if dispatch.records(x) else dispatch.call)(operator, columns, *rest)
    except Exception as error:
        dispatch.refused(error, "col2im", _check_col2im, x, output_size, kernel_size, stride, padding, dilation)
    return y if x.dim() == 3 else y.squeeze(0)


def _windows(op: str, **named: Any) -> list[tuple[int, int]]:
    checks.integers(op, **named)
    pairs = []
    for name, value in named.items():
        items = value if isinstance(value, list | tuple) else (value,)
        require(len(items) in (1, 2), lambda: f"It is expected {name} equals to 2, but got size {len(items)}")
        pairs.append(pair(value))
    return pairs


def _positive(kernel: tuple[int, int], step: tuple[int, int], pad: tuple[int, int], gap: tuple[int, int]) -> None:
    require(
        min(kernel) > 0,
        lambda: (
            f"kernel size should be greater than zero, but got kernel_height: {kernel[0]} kernel_width: {kernel[1]}"
        ),
    )
    require(
        min(gap) > 0,
        lambda: f"dilation should be greater than zero, but got dilation_height: {gap[0]} dilation_width: {gap[1]}",
    )
    require(min(pad) >= 0, lambda: f"padding should be non-negative, but got pad_height: {pad[0]} pad_width: {pad[1]}")
    require(
        min(step) > 0,
        lambda: f"stride should be greater than zero, but got stride_height: {step[0]} stride_width: {step[1]}",
    )


def _blocks(size: Any, kernel: Any, step: Any, pad: Any, gap: Any) -> list[int]:
    return [
        # C's division rounds towards zero, and so does the number in torch's message.
        int((n + 2 * p - d * (k - 1) - 1) / s) + 1
        for n, k, s, p, d in zip(size, kernel, step, pad, gap, strict=True)
    ]


def _check_im2col(x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
    checks.tensors("im2col", input=x)
    kernel, gap, pad, step = _windows(
        "im2col", kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride
    )
    if x.dim() < 3:
        last = x.dim() - 1
        raise IndexError(f"Dimension out of range (expected to be in range of [{-x.dim()}, {last}], but got {x.dim()})")
    _positive(kernel, step, pad, gap)
    require(
        x.dim() in (3, 4) and all(extent > 0 for extent in x.shape[-3:]),
        lambda: (
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for "
            f"input, but got: {list(x.shape)}"
        ),
    )
    height, width = x.shape[-2:]
    counts = _blocks((height, width), kernel, step, pad, gap)
    require(
        min(counts) >= 1,
        lambda: (
            f"Given input with spatial size ({height}, {width}), kernel_size={kernel}, dilation={gap}, padding={pad}, "
            f"calculated shape of the array of sliding blocks as ({counts[0]}, {counts[1]}), but its components must "
            "be at least one."
        ),
    )
    checks.below_31_bits("im2col", kernel_size=kernel, stride=step, padding=pad, dilation=gap)
    rows = x.shape[-3] * kernel[0] * kernel[1]
    checks.fits_memory([*x.shape[:-3], rows, counts[0] * counts[1]], x.dtype)
    checks.float_dtype("im2col", x)


def _check_col2im(x: Any, output_size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
    checks.tensors("col2im", input=x)
    size, kernel, gap, pad, step = _windows(
        "col2im",
        output_size=output_size,
        kernel_size=kernel_size,
        dilation=dilation,
        padding=padding,
        stride=stride,
    )
    _positive(kernel, step, pad, gap)
    require(
        x.dim() in (2, 3) and all(extent > 0 for extent in x.shape[-2:]),
        lambda: (
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for "
            f"input, but got: {list(x.shape)}"
        ),
    )
    rows, columns = x.shape[-2:]
    require(
        rows % (kernel[0] * kernel[1]) == 0,
        lambda: (
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={rows} and kernel_size={kernel}."
        ),
    )
    counts = _blocks(size, kernel, step, pad, gap)
    require(
        columns == counts[0] * counts[1],
        lambda: (
            f"Given output_size={size}, kernel_size={kernel}, dilation={gap}, padding={pad}, stride={step}, expected "
            f"size of input's dimension 2 to match the calculated number of sliding blocks {counts[0]} * {counts[1]} = "
            f"{counts[0] * counts[1]}, but got input.size(2)={columns}."
        ),
    )
    require(
        counts[0] >= 1 and counts[1] >= 1,
        lambda: (
            f"Given output_size={size}, kernel_size={kernel}, dilation={gap}, padding={pad}, stride={step}, calculated "
            f"shape of the array of sliding blocks as ({counts[0]}, {counts[1]}), which is too small (non-positive)"
        ),
    )
    checks.below_31_bits("col2im", output_size=size, stride=step, padding=pad, dilation=gap)
    checks.fits_memory([*x.shape[:-2], rows // (kernel[0] * kernel[1]), *size], x.dtype)
    checks.float_dtype("col2im", x)
