"""Matrix products with their epilogue: gemm and linear."""

import math
from typing import Any

import torch
from torch import Tensor

from . import cache, checks, dispatch
from .arguments import ActParam, split_param
from .checks import require


def gemm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    residual: Tensor | None = None,
    act: str = "identity",
    act_param: ActParam = None,
    algo: str | None = None,
) -> Tensor:
    """Matrix product, or a batch of them, with bias, residual addition and activation in one pass.

    y[m, n] = act(sum over k of op(a)[m, k] * op(b)[k, n] + bias[n] + residual[m, n])

    Equivalent to ``act(op(a) @ op(b) + bias + residual)``, op being a transposition of the last two axes or nothing.

    Args:
        a: (M, K), or (K, M) with transpose_a; float32, float64, float16 or bfloat16; any strides; with or without a
            leading batch axis, as b.
        b: (K, N), or (N, K) with transpose_b, of a's dtype. Batches are not broadcast.
        bias: (N,).
        residual: of the output's shape and a's dtype.
        act: as in `conv2d`; prelu takes act_param of shape (1,), (N,) or the output's.
        act_param: the slope of leaky_relu (0.01), alpha of elu (1.0), or prelu's tensor.
        algo: forces an algorithm of ``fastconv.algorithms("gemm")``.

    Returns:
        (M, N) or (B, M, N), contiguous.

    Raises:
        RuntimeError: shapes that cannot be multiplied, in torch's words.
        ValueError: bias, residual, act, act_param or algo do not fit.
        NotImplementedError: no algorithm serves the problem, or not the one asked for.

    Numerics: accumulation and epilogue in float32 (float64 for float64), rounded once.
    """
    try:
        return _run(a, b, bias, transpose_a, transpose_b, residual, act, act_param, algo)
    except Exception as error:
        rest = (b, bias, transpose_a, transpose_b, residual, act, act_param)
        dispatch.refused(error, "gemm", _check_gemm, a, *rest)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    act: str = "identity",
    act_param: ActParam = None,
    algo: str | None = None,
) -> Tensor:
    """Affine map of the last axis, with residual addition and activation in one pass.

    y[..., n] = act(sum over k of x[..., k] * weight[n, k] + bias[n] + residual[..., n])

    Equivalent to ``act(torch.nn.functional.linear(x, weight, bias) + residual)``.

    Args:
        x: (..., K).
        weight: (N, K) or (K,), of x's dtype.
        bias: (N,), or anything that broadcasts over the output.
        residual: of the output's shape and x's dtype.
        act, act_param, algo: as in `gemm`; prelu takes act_param of shape (1,), (N,) or the output's.

    Returns:
        (..., N); (...) for a weight of one dimension.

    Raises:
        As `gemm`.

    Numerics: as `gemm`.
    """
    try:
        return _linear(x, weight, bias, residual, act, act_param, algo)
    except Exception as error:
        dispatch.refused(error, "linear", _check_linear, x, weight, bias, residual, act, act_param)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    act_param: ActParam,
    algo: str | None,
) -> Tensor:
    lowered = dispatch.autocast_dtype(x)
    if lowered is not None:
        x, weight, bias, residual = dispatch.lower(lowered, x, weight, bias, residual)
    if dispatch.checks_first():
        _check_linear(x, weight, bias, residual, act, act_param)
    if weight.dim() == 1:
        if bias is not None and bias.dim() > 0:
            raise RuntimeError("mat2 must be a matrix, got 1-D tensor")
        bias, residual = (None if t is None else t.unsqueeze(-1) for t in (bias, residual))
        return _linear(x, weight.unsqueeze(0), bias, residual, act, act_param, algo).squeeze(-1)
    if weight.dim() != 2 or x.dim() == 0:
        raise RuntimeError("linear takes a matrix")  # _check_linear finds torch's words
    if bias is not None and bias.dtype is not x.dtype:
        raise RuntimeError("bias and input differ in dtype")
    shape = (*x.shape[:-1], weight.shape[0])
    if bias is not None and bias.shape != (shape[-1],):
        if residual is None:
            residual, bias = bias.expand(shape), None
        else:
            bias = bias.expand(shape[-1:])
    if x.dim() == 2:
        return _run(x, weight, bias, False, True, residual, act, act_param, algo)
    matrix = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.new_empty(math.prod(shape[:-1]), 0)
    if residual is not None:
        residual = residual.reshape(-1, shape[-1])
    if isinstance(act_param, Tensor) and act_param.shape == shape:
        act_param = act_param.reshape(-1, shape[-1])
    return _run(matrix, weight, bias, False, True, residual, act, act_param, algo).view(shape)


def _run(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_a: bool,
    transpose_b: bool,
    residual: Tensor | None,
    act: str,
    act_param: ActParam,
    algo: str | None,
) -> Tensor:
    lowered = dispatch.autocast_dtype(a)
    if lowered is not None:
        a, b, bias, residual = dispatch.lower(lowered, a, b, bias, residual)
    compiling = dispatch.is_compiling()
    alpha = act_param if isinstance(act_param, Tensor) else None
    recorded = dispatch.records(a, b, bias, residual, alpha)
    plain = residual is None and act == "identity" and act_param is None
    # A call that is taken apart never reaches the operator that would refuse its operands; nor does a captured one.
    if dispatch.checks_first() or (recorded and not plain):
        _check_gemm(a, b, bias, transpose_a, transpose_b, residual, act, act_param)
    param, alpha = (0.0, None) if act == "identity" and act_param is None else split_param(act, act_param)
    backend = dispatch.forced_backend(a)
    operators = dispatch.operators_of(backend)
    if recorded:
        product = (a, b, bias, transpose_a, transpose_b, None, "identity", 0.0, None, algo or "", backend, None)
        y = dispatch.recorded(operators.gemm, *product)
        if residual is not None:
            y = y + residual
        return y if act == "identity" else _activate(operators, y, act, param, alpha, backend)
    packed = None
    # What bfloat16 is packed for depends on the processor: asked for by name, an algorithm packs for itself.
    reads = algo is None or (algo == "tiled" and b.dtype is not torch.bfloat16)
    if reads and not backend and not compiling and b.dim() == 2 and b.is_cpu and _worth_packing(a):
        packed = cache.gemm_b(b, transpose_b)
    return dispatch.call(
        operators.gemm, a, b, bias, transpose_a, transpose_b, residual, act, param, alpha, algo or "", backend, packed
    )


def _worth_packing(a: Tensor) -> bool:
    # A few rows read b once either way, and b may be large: leave it where it is.
    return a.dim() == 2 and min(a.shape) >= 8


def _activate(operators: Any, y: Tensor, act: str, param: float, alpha: Tensor | None, backend: str) -> Tensor:
    """The activation over columns: PReLU's channels are the last axis here, the second of the operator."""
    if alpha is None or alpha.numel() == 1:
        return dispatch.recorded(operators.activation, y, act, param, alpha, backend)
    if alpha.dim() == 1:
        return dispatch.recorded(operators.activation, y.reshape(-1, y.shape[-1]), act, param, alpha, backend).view(
            y.shape
        )
    return dispatch.recorded(operators.activation, y, act, param, alpha.expand(y.shape), backend)


def _check_gemm(
    a: Any, b: Any, bias: Any, transpose_a: bool, transpose_b: bool, residual: Any, act: str, act_param: Any
) -> None:
    op = "gemm"
    checks.tensors(op, a=a, b=b)
    checks.float_dtype(op, a)
    require(
        a.dtype == b.dtype,
        lambda: (
            f"expected m1 and m2 to have the same dtype, but got: {checks.scalar_name(a.dtype)} != "
            f"{checks.scalar_name(b.dtype)}"
        ),
    )
    require(
        a.dim() in (2, 3) and b.dim() == a.dim(),
        lambda: (
            f"{op}: expected a and b to be matrices, or batches of as many matrices, but got shapes {list(a.shape)} "
            f"and {list(b.shape)}"
        ),
        ValueError,
    )
    rows, inner = (a.shape[-1], a.shape[-2]) if transpose_a else (a.shape[-2], a.shape[-1])
    other, columns = (b.shape[-1], b.shape[-2]) if transpose_b else (b.shape[-2], b.shape[-1])
    require(
        inner == other,
        lambda: f"mat1 and mat2 shapes cannot be multiplied ({rows}x{inner} and {other}x{columns})",
    )
    require(
        a.dim() == 2 or a.shape[0] == b.shape[0],
        lambda: f"{op}: expected a and b to have the same batch, but got {a.shape[0]} and {b.shape[0]}",
        ValueError,
    )
    require(
        bias is None or (isinstance(bias, Tensor) and tuple(bias.shape) == (columns,)),
        lambda: f"{op}: expected bias to have shape [{columns}], but got {checks.shape_of(bias)}",
        ValueError,
    )
    if bias is not None:
        checks.floating(op, "bias", bias)
    fused = {"residual": residual, "act": act, "act_param": act_param}
    checks.epilogue(op, [*a.shape[:-2], rows, columns], a, -1, columns, fused)
    checks.one_device(op, a, b=b, bias=bias)


def _check_linear(x: Any, weight: Any, bias: Any, residual: Any, act: str, act_param: Any) -> None:
    op = "linear"
    checks.tensors(op, input=x, weight=weight)
    require(
        x.dim() > 0 and weight.dim() > 0,
        lambda: f"both arguments to linear need to be at least 1D, but they are {x.dim()}D and {weight.dim()}D",
    )
    require(weight.dim() <= 2, lambda: f"t() expects a tensor with <= 2 dimensions, but self is {weight.dim()}D")
    require(
        x.dtype == weight.dtype,
        lambda: (
            f"expected m1 and m2 to have the same dtype, but got: {checks.scalar_name(x.dtype)} != "
            f"{checks.scalar_name(weight.dtype)}"
        ),
    )
    checks.float_dtype(op, x)
    rows = x.numel() // max(x.shape[-1], 1)
    columns = weight.shape[0] if weight.dim() == 2 else 1
    require(
        x.shape[-1] == weight.shape[-1] or weight.dim() == 2 or x.dim() != 2,
        lambda: f"size mismatch, got input ({rows}), mat ({rows}x{x.shape[-1]}), vec ({weight.shape[0]})",
    )
    require(
        x.shape[-1] == weight.shape[-1],
        lambda: f"mat1 and mat2 shapes cannot be multiplied ({rows}x{x.shape[-1]} and {weight.shape[-1]}x{columns})",
    )
    shape = [*x.shape[:-1], *weight.shape[:-1]]
    if bias is not None:
        require(isinstance(bias, Tensor), lambda: f"{op}(): argument 'bias' (position 3) must be Tensor", TypeError)
        require(
            bias.dtype == x.dtype,
            lambda: f"self and mat2 must have the same dtype, but got {type_name(bias.dtype)} and {type_name(x.dtype)}",
        )
        require(bias.dim() == 0 or weight.dim() == 2, lambda: f"mat2 must be a matrix, got {bias.dim()}-D tensor")
        flat = [rows, columns]
        for axis, (have, want) in enumerate(zip(bias.shape[::-1], flat[::-1], strict=False)):
            require(
                have in (1, want) or bias.dim() > len(flat),
                lambda: (
                    f"The expanded size of the tensor ({want}) must match the existing size ({have}) at non-singleton "
                    f"dimension {1 - axis}.  Target sizes: {flat}.  Tensor sizes: {list(bias.shape)}"
                ),
            )
        require(
            bias.dim() <= len(shape) and all(b in (1, s) for b, s in zip(bias.shape[::-1], shape[::-1], strict=False)),
            lambda: f"{op}: expected bias to broadcast to {list(shape)}, but got {list(bias.shape)}",
            ValueError,
        )
    checks.epilogue(op, shape, x, -1, columns, {"residual": residual, "act": act, "act_param": act_param})
    checks.one_device(op, x, weight=weight, bias=bias)


def type_name(dtype: torch.dtype) -> str:
    names = {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16"}
    return names.get(dtype, str(dtype))
