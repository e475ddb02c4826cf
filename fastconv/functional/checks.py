"""Why an operator refused its arguments, in torch's words and classes where torch has them.

The operators check everything themselves, tersely; these functions run when one has refused (and while a graph is
captured), so that a call that succeeds pays nothing for good messages. Each raises the first thing it finds wrong.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import ACTIVATIONS, is_integer, pair

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_SCALAR_NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "c10::Half",
    torch.bfloat16: "c10::BFloat16",
    torch.int64: "long int",
    torch.int32: "int",
    torch.bool: "bool",
}


def scalar_name(dtype: torch.dtype) -> str:
    """torch's C++ name of a dtype, as it stands in its messages."""
    return _SCALAR_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def require(condition: Any, message: str | Callable[[], str], error: type[Exception] = RuntimeError) -> None:
    """Raises `error` unless the condition holds. Texts with values in them are lambdas: a graph capture, which runs
    these checks on symbolic shapes, cannot put such a text together."""
    if not condition:
        raise error(message if isinstance(message, str) else message())


def tensors(op: str, **named: Any) -> None:
    """Every required argument is a tensor: `input=x, weight=w`."""
    for position, (name, value) in enumerate(named.items(), 1):
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(f"{op}(): argument '{name}' (position {position}) must be Tensor, not {kind}")
        dense(op, name, value)


def dense(op: str, name: str, t: Tensor) -> None:
    """Sparse and opaque tensors have no strides that a kernel could walk."""
    if t.layout != torch.strided:
        raise NotImplementedError(
            f"{op}: expected {name} to have layout torch.strided, but got {t.layout} (to_dense() makes it so)"
        )


def floating(op: str, name: str, t: Tensor) -> None:
    """What is converted to the type that kernels accumulate in."""
    require(
        t.dtype in FLOAT_DTYPES,
        lambda: f"{op}: expected {name} to be of a floating dtype, but got {t.dtype}",
        ValueError,
    )


def below_31_bits(op: str, **named: Any) -> None:
    """What kernels count in 32 bits: strides, paddings, factors. Sizes of tensors are for each algorithm to refuse."""
    for name, value in named.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            require(
                not isinstance(item, int) or item < 1 << 31,
                lambda: f"{op}: expected {name} to be below {1 << 31}, but got {item}",
                ValueError,
            )


def fits_memory(shape: Sequence[Any], dtype: torch.dtype) -> None:
    """torch's refusal of a tensor whose bytes 63 bits cannot count."""
    # Dynamo takes open extents for ints, and the answer would become a bound of theirs.
    if not torch.compiler.is_compiling() and all(type(extent) is int for extent in shape):
        require(
            math.prod(shape) * dtype.itemsize < 1 << 63,
            lambda: f"Storage size calculation overflowed with sizes={list(shape)}",
        )


def float_dtype(op: str, x: Tensor) -> None:
    """The element types that kernels exist for."""
    if x.dtype not in FLOAT_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)
        got = str(x.dtype).removeprefix("torch.")
        raise NotImplementedError(f"{op}: no algorithm serves dtype {got}: every one needs {names}")


def one_device(op: str, x: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None:
            dense(op, name, other)
        if other is not None and other.device != x.device:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but got {name} is on {other.device}, different from "
                f"other tensors on {x.device} (when checking argument in {op})"
            )


def activation(op: str, act: Any, act_param: Any) -> None:
    require(
        act in ACTIVATIONS,
        lambda: f"{op}: expected act to be one of {', '.join(ACTIVATIONS)}, but got {act!r}",
        ValueError,
    )
    if act == "prelu":
        require(
            isinstance(act_param, Tensor),
            lambda: f"{op}: expected act_param to be a tensor with act='prelu', but got {act_param!r}",
            ValueError,
        )
    elif isinstance(act_param, Tensor):
        raise ValueError(f"{op}: expected act_param to be a number with act={act!r}, but got a tensor")
    else:
        require(
            act_param is None or hasattr(act_param, "__float__"),
            lambda: f"{op}: expected act_param to be a number with act={act!r}, but got {act_param!r}",
            ValueError,
        )


def epilogue(
    op: str, out_shape: Sequence[int], x: Tensor, channel: int, channels: int, arguments: dict[str, Any]
) -> None:
    """scale, shift, residual, act and act_param of a fused call whose output is `out_shape`."""
    for name in ("scale", "shift"):
        vector = arguments.get(name)
        if vector is None:
            continue
        require(
            isinstance(vector, Tensor) and vector.shape == (channels,),
            lambda: f"{op}: expected {name} to be a tensor of shape [{channels}], but got {shape_of(vector)}",
            ValueError,
        )
        floating(op, name, vector)
    residual = arguments.get("residual")
    if residual is not None:
        require(
            isinstance(residual, Tensor) and tuple(residual.shape) == tuple(out_shape),
            lambda: (
                f"{op}: expected residual to have the output's shape {list(out_shape)}, but got {shape_of(residual)}"
            ),
            ValueError,
        )
        require(
            residual.dtype == x.dtype,
            lambda: f"{op}: expected residual to have the input's dtype {x.dtype}, but got {residual.dtype}",
            ValueError,
        )
    activation(op, arguments.get("act", "identity"), arguments.get("act_param"))
    alpha = arguments.get("act_param")
    if arguments.get("act") == "prelu" and alpha is not None:
        full = (
            [tuple(out_shape), (1, *out_shape[1:]), tuple(out_shape[1:])] if len(out_shape) > 2 else [tuple(out_shape)]
        )
        require(
            alpha.numel() == 1 or tuple(alpha.shape) in [(channels,), *full],
            lambda: (
                f"{op}: expected act_param to have shape [1], [{channels}] or {list(full[-1])}, but got "
                f"{list(alpha.shape)}"
            ),
            ValueError,
        )
        floating(op, "act_param", alpha)
    one_device(op, x, **{k: v for k, v in arguments.items() if isinstance(v, Tensor)})


def shape_of(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else repr(value)


def expand_list(name: str, value: Any, count: int = 2) -> list[int]:
    """An int or a list of one or `count` ints, as torch's convolutions take them."""
    if is_integer(value):
        return [value] * count
    values = list(value)
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {count} values to match the convolution "
            f"dimensions, but got {name}={values}"
        )
    return values


def integers(op: str, **named: Any) -> None:
    """Ints, or sequences of ints; `groups` is one int."""
    for name, value in named.items():
        if name == "groups" and isinstance(value, list | tuple):
            raise TypeError(f"{op}(): argument 'groups' must be int, not {type(value).__name__}")
        if isinstance(value, str) and name == "padding" and op in ("conv2d", "upsample_conv2d"):
            continue
        items = value if isinstance(value, list | tuple | torch.Size) else (value,)
        for item in items:  # torch.Size and lists of SymInt while a graph is captured
            if isinstance(item, bool) or not (isinstance(item, int | torch.SymInt) or hasattr(item, "__index__")):
                raise TypeError(
                    f"{op}(): argument '{name}' must be int or tuple of ints, but found {type(item).__name__}"
                )


def window_pair(op: str, name: str, value: Any, hint: str) -> tuple[int, int]:
    """kernel_size, stride, padding or dilation of a pooling function."""
    items = value if isinstance(value, list | tuple | torch.Size) else (value,)
    require(len(items) in (1, 2), lambda: f"{op}: {name} must {hint}")
    return pair(value)
