"""Why a convolution refused its arguments: torch's conditions, in torch's order, with torch's texts."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import checks
from .arguments import is_integer
from .checks import expand_list, require

Raw = dict[str, Any]


def _types_agree(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != x.dtype:
            raise RuntimeError(
                f"Input type ({checks.scalar_name(x.dtype)}) and {name} type ({checks.scalar_name(other.dtype)}) "
                "should be the same"
            )


def _tensors(op: str, x: Any, weight: Any, bias: Any) -> None:
    checks.tensors(op, input=x, weight=weight)
    if bias is not None and not isinstance(bias, Tensor):
        raise TypeError(f"{op}(): argument 'bias' (position 3) must be Tensor, not {type(bias).__name__}")


def _groups(weight: Tensor, groups: int) -> None:
    shape = list(weight.shape)
    require(
        shape[0] >= groups,
        lambda: (
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of size "
            f"{shape} instead"
        ),
    )
    require(
        shape[0] % groups == 0,
        lambda: (
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size [{shape}] instead"
        ),
    )


def _four(padding: Any, stride: Sequence[int], dilation: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """padding as (top, bottom, left, right), from torch's forms, 'same', 'valid', or four values."""
    if isinstance(padding, str):
        require(padding in ("same", "valid"), lambda: f"Invalid padding string: '{padding}'")
        if padding == "valid":
            return [0] * 4
        require(all(s == 1 for s in stride), "padding='same' is not supported for strided convolutions")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2]
    if not is_integer(padding) and len(padding) == 4:
        return list(padding)
    vertical, horizontal = expand_list("padding", padding)
    return [vertical, vertical, horizontal, horizontal]


def _batched(x: Tensor) -> list[int]:
    """The shape that torch's messages show: an unbatched image gets a batch of one."""
    return [1, *x.shape] if x.dim() == 3 else list(x.shape)


def _windows(height: int, width: int, kernel: Sequence[int], dilation: Sequence[int]) -> None:
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    require(
        height >= reach[0] and width >= reach[1],
        lambda: (
            f"Calculated padded input size per channel: ({height} x {width}). Kernel size: ({reach[0]} x {reach[1]}). "
            "Kernel size can't be greater than actual input size"
        ),
    )


def conv2d(
    op: str,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    fused: Raw,
    scale_factor: Any = 1,
) -> None:
    """conv2d and, with a scale_factor, upsample_conv2d."""
    _tensors(op, x, weight, bias)
    checks.integers(op, stride=stride, padding=padding, dilation=dilation, groups=groups, scale_factor=scale_factor)
    torch_name = "conv2d"
    require(
        x.dim() in (3, 4),
        lambda: (
            f"Expected 3D (unbatched) or 4D (batched) input to {torch_name}, but got input of size: {list(x.shape)}"
        ),
    )
    dims = weight.dim() - 2
    if isinstance(padding, str) and weight.dim() != x.dim() + (x.dim() == 3):
        raise RuntimeError(
            f"Expected {weight.dim()}-dimensional input for {weight.dim()}-dimensional weight{list(weight.shape)}, "
            f"but got {x.dim()}-dimensional input of size {list(x.shape)} instead"
        )
    _types_agree(x, weight, bias)
    checks.float_dtype(op, x)
    require(groups > 0, "non-positive groups is not supported")
    require(dims >= 1, "weight should have at least three dimensions")
    if dims != 2:
        expand_list("stride", [stride] * 2 if isinstance(stride, int) else stride, dims)
        raise RuntimeError(f"expected weight to have 4 dimensions, but got weight of size {list(weight.shape)}")
    stride, dilation = expand_list("stride", stride), expand_list("dilation", dilation)
    kernel = list(weight.shape[2:])
    sides = _four(padding, stride, dilation, kernel)
    require(all(p >= 0 for p in sides), "negative padding is not supported")
    require(all(s > 0 for s in stride), "non-positive stride is not supported")
    require(all(d >= 0 for d in dilation), "dilation should be greater than zero")
    require(all(d > 0 for d in dilation), lambda: f"dilation should be greater than zero, but got {dilation}")
    _groups(weight, groups)
    channels = x.shape[-3]
    require(
        channels == weight.shape[1] * groups,
        lambda: (
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{_batched(x)} to have "
            f"{weight.shape[1] * groups} channels, but got {channels} channels instead"
        ),
    )
    require(
        bias is None or tuple(bias.shape) == (weight.shape[0],),
        lambda: (
            f"Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {weight.shape[0]} "
            f"elements, but got bias of size {list(bias.shape) if bias is not None else []} instead"
        ),
    )
    factor = expand_list("scale_factor", scale_factor)
    require(
        all(f >= 1 for f in factor),
        lambda: f"{op}: expected scale_factor to be a whole number of at least 1, but got {scale_factor}",
        ValueError,
    )
    require(
        min(kernel) > 0,
        lambda: (
            f"kernel size should be greater than zero, but got kernel_height: {kernel[0]} kernel_width: {kernel[1]}"
        ),
    )
    height = x.shape[-2] * factor[0] + sides[0] + sides[1]
    width = x.shape[-1] * factor[1] + sides[2] + sides[3]
    _windows(height, width, kernel, dilation)
    require(
        x.shape[-2] > 0 and x.shape[-1] > 0,
        lambda: f"Only zero batch or zero channel inputs are supported, but got input shape: {list(x.shape)}",
    )
    out = [
        (extent - d * (k - 1) - 1) // s + 1
        for extent, d, k, s in zip((height, width), dilation, kernel, stride, strict=True)
    ]
    window = {"stride": stride, "padding": sides, "dilation": dilation, "groups": groups, "scale_factor": factor}
    checks.below_31_bits(op, **window)
    shape = [*x.shape[:-3], weight.shape[0], *out]
    checks.fits_memory(shape, x.dtype)
    checks.epilogue(op, shape, x, -3, weight.shape[0], fused)
    checks.one_device(op, x, weight=weight, bias=bias)


def conv_transpose2d(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> None:
    op = "conv_transpose2d"
    _tensors(op, x, weight, bias)
    checks.integers(op, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups)
    require(
        x.dim() in (3, 4),
        lambda: f"Expected 3D (unbatched) or 4D (batched) input to {op}, but got input of size: {list(x.shape)}",
    )
    _types_agree(x, weight, bias)
    checks.float_dtype(op, x)
    require(groups > 0, "non-positive groups is not supported")
    require(weight.dim() >= 3, "weight should have at least three dimensions")
    if weight.dim() != 4:
        expand_list("stride", [stride] * 2 if isinstance(stride, int) else stride, weight.dim() - 2)
        raise RuntimeError(f"expected weight to have 4 dimensions, but got weight of size {list(weight.shape)}")
    stride, padding = expand_list("stride", stride), expand_list("padding", padding)
    extra, dilation = expand_list("output_padding", output_padding), expand_list("dilation", dilation)
    require(all(p >= 0 for p in padding), "negative padding is not supported")
    require(all(e >= 0 for e in extra), "negative output_padding is not supported")
    require(all(s > 0 for s in stride), "non-positive stride is not supported")
    _groups(weight, groups)
    channels, shape = x.shape[-3], list(weight.shape)
    require(
        channels == shape[0],
        lambda: (
            f"Given transposed=1, weight of size {shape}, expected input{_batched(x)} to have {shape[0]} channels, but "
            f"got {channels} channels instead"
        ),
    )
    filters = shape[1] * groups
    require(
        bias is None or tuple(bias.shape) == (filters,),
        lambda: (
            f"Given transposed=1, weight of size {shape}, expected bias to be 1-dimensional with {filters} elements, "
            f"but got bias of size {list(bias.shape) if bias is not None else []} instead"
        ),
    )
    require(
        x.shape[-2] > 0 and x.shape[-1] > 0,
        lambda: f"Only zero batch or zero channel inputs are supported, but got input shape: {list(x.shape)}",
    )
    require(
        min(shape[2:]) > 0,
        lambda: f"kernel size should be greater than zero, but got kernel_height: {shape[2]} kernel_width: {shape[3]}",
    )
    require(
        all(d > 0 for d in dilation),
        lambda: (
            f"dilation should be greater than zero, but got dilation_height: {dilation[0]}, dilation_width: "
            f"{dilation[1]}"
        ),
    )
    require(
        all(e < s or e < d for e, s, d in zip(extra, stride, dilation, strict=True)),
        lambda: (
            "output padding must be smaller than either stride or dilation, but got output_padding_height: "
            f"{extra[0]} output_padding_width: {extra[1]} stride_height: {stride[0]} stride_width: {stride[1]} "
            f"dilation_height: {dilation[0]} dilation_width: {dilation[1]}"
        ),
    )
    height, width = x.shape[-2:]
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip((height, width), stride, padding, dilation, shape[2:], extra, strict=True)
    ]
    require(
        min(out) > 0,
        lambda: (
            f"Given input size per channel: ({height} x {width}). Calculated output size per channel: ({out[0]} x "
            f"{out[1]}). Output size is too small"
        ),
    )
    checks.below_31_bits(op, stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups)
    checks.fits_memory([*x.shape[:-3], filters, *out], x.dtype)
    checks.one_device(op, x, weight=weight, bias=bias)
