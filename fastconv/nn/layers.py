"""torch's layers on fastconv's kernels: the same constructors, attributes, state_dict and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import functional
from fastconv.functional import cache
from fastconv.nn.norm import normalise

_Layer = TypeVar("_Layer", bound=nn.Module)


def packs_weights(layer: type[_Layer]) -> type[_Layer]:
    """For layers whose weights `fastconv.functional.cache` packs: it forgets them before torch converts or loads them.

    torch may exchange the contents of parameters then (`torch.__future__.set_swap_module_params_on_conversion`), which
    it refuses where something refers to them weakly. No base class: an object's class can be changed only to one whose
    first base is the old class.
    """

    def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        cache.forget(*self._parameters.values())
        return super(layer, self)._apply(*args, **kwargs)

    def _load_from_state_dict(self: Any, *args: Any, **kwargs: Any) -> None:
        cache.forget(*self._parameters.values())
        super(layer, self)._load_from_state_dict(*args, **kwargs)

    layer._apply, layer._load_from_state_dict = _apply, _load_from_state_dict  # type: ignore[method-assign]
    return layer


@packs_weights
class Conv2d(nn.Conv2d):
    """2-D convolution, y[n,k] = bias[k] + sum over c,r,s of w[k,c,r,s] * x[n,c,p*stride-pad+r*dil,q*stride-pad+s*dil].

    Equivalent to ``torch.nn.Conv2d``: same arguments, state_dict, gradients and output layout; `padding_mode` zeros,
    reflect, replicate or circular. See `fastconv.functional.conv2d` for shapes, errors and numerics.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | Sequence[int] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return functional.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


@packs_weights
class ConvTranspose2d(nn.ConvTranspose2d):
    """2-D transposed convolution, the gradient of Conv2d with respect to its input.

    Equivalent to ``torch.nn.ConvTranspose2d``, `output_size` in the call included.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        output_padding: Sequence[int] = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(
                input,
                output_size,
                cast("list[int]", self.stride),
                cast("list[int]", self.padding),
                cast("list[int]", self.kernel_size),
                2,
                cast("list[int]", self.dilation),
            )
        padding = cast("tuple[int, ...]", self.padding)
        return functional.conv_transpose2d(
            input, self.weight, self.bias, self.stride, padding, output_padding, self.groups, self.dilation
        )


@packs_weights
class Linear(nn.Linear):
    """y = x @ weight.T + bias.

    Equivalent to ``torch.nn.Linear``; x is (*, in_features), the result (*, out_features).
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias)


class BatchNorm2d(nn.BatchNorm2d):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, by the statistics of the batch or the running ones.

    Equivalent to ``torch.nn.BatchNorm2d``: same arguments, buffers and state_dict; `momentum=None`, `affine=False` and
    `track_running_stats=False` included. See `fastconv.functional.batch_norm_act` for numerics.
    """

    def forward(self, input: Tensor) -> Tensor:
        return normalise(self, input, "identity", None)


class MaxPool2d(nn.MaxPool2d):
    """Largest value of each window; NaN wins.

    Equivalent to ``torch.nn.MaxPool2d``, `ceil_mode` and `return_indices` included.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class AvgPool2d(nn.AvgPool2d):
    """Mean of each window.

    Equivalent to ``torch.nn.AvgPool2d``, `count_include_pad` and `divisor_override` included.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Mean over windows chosen so that the output has the given size.

    Equivalent to ``torch.nn.AdaptiveAvgPool2d``; None keeps that extent of the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """Largest value over windows chosen so that the output has the given size.

    Equivalent to ``torch.nn.AdaptiveMaxPool2d``; None keeps that extent of the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class PReLU(nn.PReLU):
    """y = x where x >= 0, alpha * x elsewhere, with a learned alpha.

    Equivalent to ``torch.nn.PReLU`` for one alpha or one a channel. `num_parameters` may also be a shape (C, H, W):
    one alpha for every element of a sample, which torch has not.

    Args:
        num_parameters: 1, the number of channels, or the shape (C, H, W).
        init: first value of every alpha.
    """

    def __init__(
        self,
        num_parameters: int | tuple[int, int, int] = 1,
        init: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(num_parameters, int):
            super().__init__(num_parameters, init, device, dtype)
            return
        shape = tuple(num_parameters)
        if len(shape) != 3 or any(extent < 1 for extent in shape):
            raise ValueError(
                f"PReLU: expected num_parameters to be an int or a shape (C, H, W) of positive extents, but got {shape}"
            )
        super().__init__(1, init, device, dtype)
        self.num_parameters = shape  # type: ignore[assignment]
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return functional.prelu(input, self.weight)


class ReLU(nn.ReLU):
    """y = max(x, 0); NaN stays NaN. Equivalent to ``torch.nn.ReLU``."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace)


class ReLU6(nn.ReLU6):
    """y = min(max(x, 0), 6). Equivalent to ``torch.nn.ReLU6``."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu6(input, self.inplace)


class LeakyReLU(nn.LeakyReLU):
    """y = x where x >= 0, negative_slope * x elsewhere. Equivalent to ``torch.nn.LeakyReLU``."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.leaky_relu(input, self.negative_slope, self.inplace)


# Which of torch's classes each layer stands in for: what `fastconv.replace` swaps.
REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Linear: Linear,
    nn.BatchNorm2d: BatchNorm2d,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d: AdaptiveMaxPool2d,
    nn.PReLU: PReLU,
    nn.ReLU: ReLU,
    nn.ReLU6: ReLU6,
    nn.LeakyReLU: LeakyReLU,
}
