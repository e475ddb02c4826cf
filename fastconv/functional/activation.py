"""Activations and softmax with torch.nn.functional's arguments."""

from typing import Any

import torch
from torch import Tensor

from fastconv import ops

from . import checks, dispatch
from .arguments import is_integer


def _run(name: str, x: Tensor, inplace: bool, param: float = 0.0, alpha: Tensor | None = None) -> Tensor:
    try:
        if dispatch.checks_first():
            _check(x, name, alpha)
        backend = dispatch.forced_backend(x)
        operators = dispatch.operators_of(backend)
        if dispatch.records(x, alpha):
            if inplace and dispatch.records_in_place(name, param):
                _replaceable(x)
                return ops.recorded_in_place(operators, x, name, param, backend)
            # The derivative needs the values that are about to be overwritten.
            y = dispatch.recorded(operators.activation, x.clone() if inplace else x, name, param, alpha, backend)
            return x.copy_(y) if inplace else y
        if not inplace:
            return dispatch.call(operators.activation, x, name, param, alpha, backend)
        _writable(x)
        dispatch.call(operators.activation_, x, name, param, alpha, backend)
        if not dispatch.is_compiling() and not x.is_inference():
            torch.autograd.graph.increment_version(x)
        return x
    except Exception as error:
        dispatch.refused(error, name, _check, x, name, alpha)


def _replaceable(x: Tensor) -> None:
    """torch's refusals, before a value has changed."""
    _writable(x)
    base = x._base
    for t, what in ((x, "a"), (base, "a view of a")):
        if t is not None and t.is_leaf and t.requires_grad:
            raise RuntimeError(f"{what} leaf Variable that requires grad is being used in an in-place operation.")


def _writable(x: Tensor) -> None:
    if any(step == 0 and extent > 1 for step, extent in zip(x.stride(), x.shape, strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )


def _check(x: Any, op: str, alpha: Any) -> None:
    checks.tensors(op, input=x)
    if op != "prelu":
        checks.require(x.dtype != torch.bool or op != "relu", "Boolean inputs not supported for relu")
        return checks.float_dtype(op, x)
    checks.require(
        isinstance(alpha, Tensor),
        lambda: f"prelu(): argument 'weight' (position 2) must be Tensor, not {type(alpha).__name__}",
        TypeError,
    )
    checks.require(
        alpha.dtype == x.dtype,
        lambda: f"prelu: Type promoting not supported. Got {_type_name(x.dtype)} and {_type_name(alpha.dtype)}",
    )
    checks.float_dtype(op, x)
    full = alpha.dim() > 1 and tuple(alpha.shape) in (tuple(x.shape[1:]), tuple(x.shape))
    if alpha.numel() != 1:
        checks.require(x.dim() > 0, "Not allow zero-dim input tensor.")
        channels = x.shape[1] if x.dim() >= 2 else 1
        checks.require(
            full or channels == alpha.numel(),
            lambda: (
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {alpha.numel()} and "
                f"channel size = {channels}."
            ),
        )
    checks.require(
        full or alpha.dim() <= 1,
        lambda: f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {alpha.dim()}",
    )
    checks.one_device(op, x, weight=alpha)
    return None


def _number(op: str, name: str, value: Any) -> float:
    if not hasattr(value, "__float__") or isinstance(value, Tensor):
        kind = "Tensor" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{op}(): argument '{name}' (position 2) must be Number, not {kind}")
    return float(value)


def _type_name(dtype: torch.dtype) -> str:
    names = {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16"}
    return names.get(dtype, str(dtype))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = max(x, 0). Equivalent to ``torch.nn.functional.relu(input, inplace)``.

    Args:
        input: any shape; float32, float64, float16 or bfloat16; any strides.
        inplace: write into the input.

    Returns:
        The input's shape, dtype and strides.

    Raises:
        NotImplementedError: an element type or device without a kernel.

    Numerics: exact; NaN stays NaN.
    """
    return _run("relu", input, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x, 0), 6). Equivalent to ``torch.nn.functional.relu6(input, inplace)``. See `relu`."""
    return _run("relu6", input, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """y = x where x > 0, negative_slope * x elsewhere.

    Equivalent to ``torch.nn.functional.leaky_relu(input, negative_slope, inplace)``. See `relu`.
    """
    return _run("leaky_relu", input, inplace, _number("leaky_relu", "negative_slope", negative_slope))


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """y = x where x > 0, weight * x elsewhere, with a learnable weight.

    Equivalent to ``torch.nn.functional.prelu(input, weight)``, and to ``torch.where(x > 0, x, weight * x)`` for a
    weight with one value for each position of a sample, which torch does not take.

    Args:
        input: (N, C, ...), or any shape with a weight of one value; a 1-D input has one channel.
        weight: (1,), (C,) or the input's shape without the batch; of the input's dtype.

    Returns:
        The input's shape, dtype and strides.

    Raises:
        RuntimeError: torch's errors, in torch's words.
        NotImplementedError: an element type or device without a kernel.

    Numerics: one multiplication, rounded once; NaN stays NaN.
    """
    if isinstance(input, Tensor) and isinstance(weight, Tensor):
        lowered = dispatch.autocast_dtype(input)
        if lowered is not None:
            input, weight = dispatch.lower(lowered, input, weight)
        if weight.dtype is not input.dtype or weight.dim() > 1:
            _check(input, "prelu", weight)
    return _run("prelu", input, False, 0.0, weight)


def sigmoid(input: Tensor) -> Tensor:
    """y = 1 / (1 + exp(-x)). Equivalent to ``torch.sigmoid(input)``. See `relu`."""
    return _run("sigmoid", input, False)


def tanh(input: Tensor) -> Tensor:
    """y = tanh(x). Equivalent to ``torch.tanh(input)``. See `relu`."""
    return _run("tanh", input, False)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x / (1 + exp(-x)). Equivalent to ``torch.nn.functional.silu(input, inplace)``. See `relu`."""
    return _run("silu", input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x * min(max(x + 3, 0), 6) / 6. Equivalent to ``torch.nn.functional.hardswish(input, inplace)``.

    See `relu`.
    """
    return _run("hardswish", input, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x + 3, 0), 6) / 6. Equivalent to ``torch.nn.functional.hardsigmoid(input, inplace)``. See `relu`."""
    return _run("hardsigmoid", input, inplace)


def gelu(input: Tensor) -> Tensor:
    """y = x * (1 + erf(x / sqrt(2))) / 2. Equivalent to ``torch.nn.functional.gelu(input)``. See `relu`."""
    return _run("gelu", input, False)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """y = x where x > 0, alpha * (exp(x) - 1) elsewhere.

    Equivalent to ``torch.nn.functional.elu(input, alpha, inplace)``. See `relu`.
    """
    return _run("elu", input, inplace, _number("elu", "alpha", alpha))


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """y[i] = exp(x[i]) / sum over j of exp(x[j]) along one axis.

    Equivalent to ``torch.nn.functional.softmax(input, dim, dtype=dtype)``.

    Args:
        input: any shape; float32, float64, float16 or bfloat16.
        dim: the axis; None takes torch's old default (0 for 0, 1 and 3 dimensions, else 1).
        dtype: converts the input first.

    Returns:
        The input's shape, contiguous.

    Raises:
        IndexError: dim is out of range.
        NotImplementedError: an element type or device without a kernel.

    Numerics: the largest value is subtracted first; sums in float32 (float64 for float64). A slice of -inf gives NaN.
    """
    try:
        if dim is None:
            dim = 0 if input.dim() in (0, 1, 3) else 1
        x = input if dtype is None else input.to(dtype)
        if dispatch.checks_first():
            _check_softmax(x, dim)
        backend = dispatch.forced_backend(x)
        operator = dispatch.operators_of(backend).softmax
        if dispatch.records(x):
            return dispatch.recorded(operator, x, dim, backend)
        return dispatch.call(operator, x, dim, backend)
    except Exception as error:
        dispatch.refused(error, "softmax", _check_softmax, input, dim, dtype)


def _check_softmax(x: Any, dim: Any, dtype: torch.dtype | None = None) -> None:
    checks.tensors("softmax", input=x)
    dims = max(x.dim(), 1)
    if not is_integer(dim):
        raise TypeError(f"softmax(): argument 'dim' (position 1) must be int, not {type(dim).__name__}")
    if not -dims <= dim < dims:
        raise IndexError(f"Dimension out of range (expected to be in range of [-{dims}, {dims - 1}], but got {dim})")
    checks.require(
        dtype is None or isinstance(dtype, torch.dtype),
        lambda: f"softmax(): argument 'dtype' must be torch.dtype, not {type(dtype).__name__}",
        TypeError,
    )
    checks.float_dtype("softmax", x if dtype is None else x.to(dtype))
