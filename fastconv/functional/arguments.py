"""Arguments as the operators take them: pairs, four-sided padding, the activation's parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The order is that of the enumerators in csrc/common/activations.h; a test compares names and values.
ACTIVATIONS = (
    "identity",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "sigmoid",
    "tanh",
    "silu",
    "hardswish",
    "hardsigmoid",
    "gelu",
    "elu",
)
DEFAULT_PARAM = {"leaky_relu": 0.01, "elu": 1.0}

IntOrPair = int | Sequence[int]
ActParam = float | Tensor | None


def is_integer(value: Any) -> bool:
    """An int, a symbolic one, or NumPy's; torch takes them all."""
    return isinstance(value, int | torch.SymInt) or hasattr(value, "__index__")


def pair(value: IntOrPair) -> tuple[int, int]:
    """An int, or one or two of them, as (vertical, horizontal)."""
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2:
        return value
    if isinstance(value, bool):
        raise TypeError("expected an int, but got a bool")  # the checks find torch's words
    if is_integer(value):
        return value, value  # type: ignore[return-value]
    first, *rest = value  # type: ignore[misc]
    if len(rest) > 1:
        raise ValueError(f"expected one or two values, but got {value!r}")
    return first, rest[0] if rest else first


def four_sides(
    padding: int | Sequence[int] | str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int, int]:
    """Any form of a convolution's padding as (top, bottom, left, right).

    'same' puts the odd one of an uneven total at the bottom and at the right, as torch does.
    """
    if type(padding) is int:
        return padding, padding, padding, padding
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        if any(step != 1 for step in stride):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        height, width = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return height // 2, height - height // 2, width // 2, width - width // 2
    if not is_integer(padding) and len(padding) == 4:  # type: ignore[arg-type]
        top, bottom, left, right = padding  # type: ignore[misc]
        return top, bottom, left, right
    vertical, horizontal = pair(padding)
    return vertical, vertical, horizontal, horizontal


def split_param(act: str, act_param: ActParam) -> tuple[float, Tensor | None]:
    """act_param as the operators take it: a number, and PReLU's tensor."""
    if act_param is None:
        return DEFAULT_PARAM.get(act, 0.0), None
    if isinstance(act_param, Tensor):
        if act != "prelu":
            raise ValueError("a tensor is prelu's parameter")  # the checks find better words
        return 0.0, act_param
    if isinstance(act_param, str):
        raise ValueError("a number, not its name")  # likewise
    return float(act_param), None
