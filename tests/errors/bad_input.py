"""What the tables of bad input are made of."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as torch_f
from torch import Tensor

from fastconv import functional

# (functions, make): `functions` are ours, or torch's under our names; make(*shape) gives a tensor.
Call = Callable[[Any, Any], Any]
X, W = (1, 3, 5, 5), (4, 3, 3, 3)
# What every refusal of an element type says.
DTYPES = "float32, float64, float16, bfloat16"
ELEMENTWISE = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu", "elu")


def as_float8(t: Tensor) -> Tensor:
    return t.to(torch.float8_e4m3fn)


TORCH: Any = SimpleNamespace(
    **{name: getattr(torch_f, name) for name in functional.__all__ if hasattr(torch_f, name)},
    sigmoid_=torch.sigmoid,
    im2col=lambda x, k, stride=1, padding=0, dilation=1: torch_f.unfold(x, k, dilation, padding, stride),
    col2im=lambda x, size, k, stride=1, padding=0, dilation=1: torch_f.fold(x, size, k, dilation, padding, stride),
    gemm=torch.mm,
)
