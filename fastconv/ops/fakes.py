"""What each operator returns without its values: shapes, dtypes and strides, for FakeTensor, torch.compile and export.

`FAKES[name]` takes the schema's arguments. Strides follow csrc/torch: a convolution is channels_last if its input or
its weight is, pooling and upsampling follow the input, elementwise operators keep dense strides.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from . import blocks
from .argument_checks import CHECKS
from .library import NAMESPACES, operators

Ints = Sequence[int]


def _empty(size: Ints, like: Tensor, *formats_of: Tensor) -> Tensor:
    """Uninitialised, of `like`'s dtype, channels_last if one of `formats_of` is."""
    last = any(suggest_memory_format(t) == torch.channels_last for t in formats_of if t.dim() == 4)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(list(size), dtype=like.dtype, device=like.device, memory_format=memory_format)


def _extent(size: int, low: int, high: int, kernel: int, stride: int, dilation: int) -> int:
    return (size + low + high - dilation * (kernel - 1) - 1) // stride + 1


def _conv_shape(x: Ints, w: Ints, stride: Ints, padding: Ints, dilation: Ints, factor: Ints = (1, 1)) -> list[int]:
    top, bottom, left, right = padding
    return [
        x[0],
        0 if x[1] == 0 else w[0],  # torch's result of no channels has none
        _extent(x[2] * factor[0], top, bottom, w[2], stride[0], dilation[0]),
        _extent(x[3] * factor[1], left, right, w[3], stride[1], dilation[1]),
    ]


def conv2d(x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, dilation: Ints, *_: Any) -> Tensor:
    return _empty(_conv_shape(x.shape, weight.shape, stride, padding, dilation), x, x, weight)


def upsample_conv2d(
    x: Tensor, weight: Tensor, bias: Any, factor: Ints, stride: Ints, padding: Ints, dilation: Ints, *_: Any
) -> Tensor:
    return _empty(_conv_shape(x.shape, weight.shape, stride, padding, dilation, factor), x, x, weight)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, extra: Ints, groups: int, dilation: Ints, *_: Any
) -> Tensor:
    sides = [
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + extra[i] + 1
        for i in range(2)
    ]
    return _empty([x.shape[0], weight.shape[1] * groups, *sides], x, x, weight)


def conv2d_input_grad(dy: Tensor, weight: Tensor, input_size: Ints, *_: Any) -> Tensor:
    return _empty(input_size, dy, dy, weight)


def conv2d_weight_grad(dy: Tensor, x: Tensor, weight_size: Ints, *_: Any) -> Tensor:
    return _empty(weight_size, dy, dy, x)


def gemm(a: Tensor, b: Tensor, bias: Any, transpose_a: bool, transpose_b: bool, *_: Any) -> Tensor:
    rows = a.shape[-1] if transpose_a else a.shape[-2]
    columns = b.shape[-2] if transpose_b else b.shape[-1]
    return a.new_empty([*a.shape[:-2], rows, columns])


def pooled_extent(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis; a window of ceil_mode that would start in the padding behind is dropped."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    windows = -(-room // stride) + 1
    return windows - 1 if (windows - 1) * stride >= size + padding else windows


def _pooled(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool) -> Tensor:
    sides = [pooled_extent(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in range(2)]
    return _empty([*x.shape[:2], *sides], x, x)


def _indices(y: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(y, dtype=torch.int64) if wanted else y.new_empty([0], dtype=torch.int64)


def max_pool2d(
    x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, return_indices: bool, _: str
) -> tuple[Tensor, Tensor]:
    y = _pooled(x, kernel, stride, padding, dilation, ceil_mode)
    return y, _indices(y, return_indices)


def avg_pool2d(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool, *_: Any) -> Tensor:
    return _pooled(x, kernel, stride, padding, (1, 1), ceil_mode)


def adaptive_avg_pool2d(x: Tensor, output_size: Ints, _: str) -> Tensor:
    return _empty([*x.shape[:2], *output_size], x, x)


def adaptive_max_pool2d(x: Tensor, output_size: Ints, return_indices: bool, _: str) -> tuple[Tensor, Tensor]:
    y = _empty([*x.shape[:2], *output_size], x, x)
    return y, _indices(y, return_indices)


def pool_backward(dy: Tensor, input_size: Ints, *_: Any) -> Tensor:
    return _empty(input_size, dy, dy)


def max_pool_backward(dy: Tensor, indices: Tensor, input_size: Ints, *_: Any) -> Tensor:
    return _empty(input_size, dy, dy)


def activation(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def activation_backward(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x.contiguous() if x.dim() > 4 else x)


def prelu_alpha_grad(dy: Tensor, x: Tensor, alpha_size: Ints, _: str) -> Tensor:
    return x.new_empty(list(alpha_size))


def softmax(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def channel_sum(dy: Tensor, _: str) -> Tensor:
    return dy.new_empty([dy.shape[1]])


def _accumulated(x: Tensor) -> Tensor:
    """A value for each channel, as kernels accumulate it."""
    return x.new_empty([x.shape[1]], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def batch_norm_stats(x: Tensor, _: str) -> tuple[Tensor, Tensor]:
    return _accumulated(x), _accumulated(x)


def conv2d_stats(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    y = conv2d(x, weight, *rest)
    return y, _accumulated(y), _accumulated(y)


def batch_norm_act(x: Tensor, *_: Any) -> Tensor:
    return _empty(x.shape, x, x)


def batch_norm_act_backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Any,
    bias: Any,
    training: bool,
    eps: float,
    residual: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dresidual = x.new_empty([0]) if residual is None else _empty(x.shape, x, x)
    return _empty(x.shape, x, x), _accumulated(x), _accumulated(x), dresidual


def im2col(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, _: str) -> Tensor:
    counts = [_extent(x.shape[2 + i], padding[i], padding[i], kernel[i], stride[i], dilation[i]) for i in range(2)]
    return x.new_empty([x.shape[0], x.shape[1] * kernel[0] * kernel[1], counts[0] * counts[1]])


def col2im(x: Tensor, output_size: Ints, kernel: Ints, *_: Any) -> Tensor:
    return x.new_empty([x.shape[0], x.shape[1] // (kernel[0] * kernel[1]), *output_size])


def upsample_nearest2d(x: Tensor, factor: Ints, _: str) -> Tensor:
    return _empty([*x.shape[:2], x.shape[2] * factor[0], x.shape[3] * factor[1]], x, x)


def upsample_nearest2d_backward(dy: Tensor, factor: Ints, _: str) -> Tensor:
    return _empty([*dy.shape[:2], dy.shape[2] // factor[0], dy.shape[3] // factor[1]], dy, dy)


FAKES: dict[str, Callable[..., Any]] = {
    "conv2d": conv2d,
    "conv2d_stats": conv2d_stats,
    "upsample_conv2d": upsample_conv2d,
    "conv_transpose2d": conv_transpose2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "gemm": gemm,
    "max_pool2d": max_pool2d,
    "max_pool2d_backward": max_pool_backward,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_backward": pool_backward,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_avg_pool2d_backward": pool_backward,
    "adaptive_max_pool2d": adaptive_max_pool2d,
    "adaptive_max_pool2d_backward": max_pool_backward,
    "activation": activation,
    "activation_": lambda *_: None,
    "activation_backward": activation_backward,
    "prelu_alpha_grad": prelu_alpha_grad,
    "softmax": softmax,
    "softmax_backward": softmax,
    "channel_sum": channel_sum,
    "batch_norm_stats": batch_norm_stats,
    "batch_norm_act": batch_norm_act,
    "batch_norm_act_backward": batch_norm_act_backward,
    "im2col": im2col,
    "col2im": col2im,
    "upsample_nearest2d": upsample_nearest2d,
    "upsample_nearest2d_backward": upsample_nearest2d_backward,
    **blocks.FAKES,
}


def checked(name: str) -> Callable[..., Any]:
    """The fake of an operator behind the checks of its arguments."""
    fake, check = FAKES[name], CHECKS[name]

    def run(*arguments: Any) -> Any:
        # A call with one tensor on the meta device comes here, whatever device the others are on.
        devices = {str(a.device) for a in arguments if isinstance(a, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {' and '.join(sorted(devices))} (in {name})"
            )
        check(*arguments)
        return fake(*arguments)

    return run


def register() -> None:
    """Registers every fake in every namespace. Packing has none: its size depends on the processor."""
    for namespace in NAMESPACES:
        for name in operators(namespace):
            if name in FAKES:
                torch.library.register_fake(f"{namespace}::{name}", checked(name))
