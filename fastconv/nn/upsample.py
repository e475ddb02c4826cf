"""Nearest upsampling, convolution, BatchNorm and activation as one block that runs as one kernel in inference."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import functional
from fastconv.nn import layers
from fastconv.nn.fused import FusedBlock, PaddingMode, Param, make_activation
from fastconv.nn.weights import find_weight, has_hooks


class UpsampleConv2d(FusedBlock):
    """Nearest upsampling by an integer factor, then convolution, then BatchNorm and activation where wanted.

    Equivalent to ``Conv2d(...)(F.interpolate(x, scale_factor=scale_factor, mode="nearest"))``, with no upsampled
    tensor in memory (except with a `padding_mode` other than zeros, whose border needs one).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as
            torch.nn.Conv2d, on the upsampled image.
        scale_factor: how often each row and column is repeated; an int or a pair.
        act: name of an activation, or a module; None for none.
    """

    scale_factor: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        scale_factor: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        act: str | nn.Module | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.scale_factor = integer_scale(scale_factor)
        conv = layers.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._set_parts(conv, None, make_activation(act))

    @classmethod
    def from_torch(
        cls, upsample: nn.Module, conv: nn.Conv2d, bn: nn.Module | None = None, act: nn.Module | None = None
    ) -> UpsampleConv2d:
        """The block that computes act(bn(conv(upsample(x)))) with the same parameter objects."""
        if not isinstance(upsample, nn.Upsample) or upsample.mode != "nearest" or upsample.scale_factor is None:
            raise TypeError(
                "UpsampleConv2d.from_torch: expected upsample to be a nearest torch.nn.Upsample with a scale_factor, "
                f"but got {upsample}"
            )
        block = cls._from_parts(conv, bn, act)
        block.scale_factor = integer_scale(upsample.scale_factor)
        return block

    def _convolve_composed(self, x: Tensor) -> Tensor:
        if has_hooks(self.conv):
            return self.conv(F.interpolate(x, scale_factor=self._scales, mode="nearest"))
        if self.conv._forward_pre_hooks:
            # Pruning makes `conv.weight` where the module is called, and here it is not.
            weight, bias = (find_weight(self.conv, name, f"conv.{name}") for name in ("weight", "bias"))
            if weight is not None:
                return self._convolve(x, weight.read(), bias.read() if bias else None, "identity", None)
        return self._convolve(x, self.conv.weight, self.conv.bias, "identity", None)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, act: str, param: Param) -> Tensor:
        conv: Any = self._modules["conv"]
        if conv.padding_mode != "zeros":
            x = F.interpolate(x, scale_factor=self._scales, mode="nearest")
            return super()._convolve(x, weight, bias, act, param)
        return functional.upsample_conv2d(
            x,
            weight,
            bias,
            self.scale_factor,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            act=act,
            act_param=param,
        )

    @property
    def _scales(self) -> list[float]:
        return [float(factor) for factor in self.scale_factor]

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}"


def integer_scale(scale_factor: Any) -> tuple[int, int]:
    """A pair of positive ints from torch's forms of a scale factor."""
    pair = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
    numbers = all(isinstance(factor, int | float) for factor in pair)
    if not numbers or len(pair) != 2 or not all(factor >= 1 and factor % 1 == 0 for factor in pair):
        raise ValueError(
            f"UpsampleConv2d: expected scale_factor to be a positive int or a pair of them, but got {scale_factor!r}"
        )
    return cast("tuple[int, int]", tuple(int(factor) for factor in pair))
