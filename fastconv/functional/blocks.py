"""Blocks in one call: inverted residuals, depthwise + pointwise, convolution + max pooling.

Without gradients the CPU computes a block band by band of rows, and CUDA's tensor cores (fp16, bf16; not
conv_max_pool) tile by tile, so that the tensors between its stages never exist in memory. Elsewhere its parts run one
after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastconv.ops import blocks

from . import cache, checks, dispatch
from .arguments import ActParam, IntOrPair, four_sides, pair, split_param
from .conv import Padding, conv2d
from .pooling import max_pool2d


class Stage(NamedTuple):
    """One convolution of a block: its weight, bias and activation."""

    weight: Tensor
    bias: Tensor | None = None
    act: str = "identity"
    act_param: ActParam = None


def _require(op: str, x: Any, **stages: Any) -> None:
    """What has to hold before anything is asked about the arguments' extents."""
    checks.tensors(op, input=x)
    if x.dim() not in (3, 4):
        raise ValueError(f"{op}: expected x to have 3 or 4 dimensions, but got {x.dim()}")
    for name, stage in stages.items():
        if not isinstance(stage, Stage):
            raise TypeError(f"{op}: expected {name} to be a fastconv.functional.Stage, but got {type(stage).__name__}")
        if not isinstance(stage.weight, Tensor) or stage.weight.dim() != 4:
            kind = f"{stage.weight.dim()} dimensions" if isinstance(stage.weight, Tensor) else repr(stage.weight)
            raise ValueError(f"{op}: expected the weight of {name} to have 4 dimensions, but got {kind}")


def _epilogue(stage: Stage) -> tuple[str, float, Tensor | None]:
    return stage.act, *split_param(stage.act, stage.act_param)


def _packed(stages: tuple[Stage, ...], groups: tuple[int, ...], backend: str) -> list[Tensor | None]:
    readable = not backend and not dispatch.is_compiling()
    return [
        cache.conv2d_weight(stage.weight, g) if readable and stage.weight.is_cpu else None
        for stage, g in zip(stages, groups, strict=True)
    ]


def _recorded(name: str, algo: str, x: Tensor, stages: tuple[Stage, ...], residual: Tensor | None) -> bool:
    """Whether autograd or torch.func follows the call, which takes the block's convolutions one by one.

    Raises:
        NotImplementedError: one of the kernels that take them together is asked for.
    """
    tensors = [t for s in stages for t in (s.weight, s.bias, s.act_param) if isinstance(t, Tensor)]
    if not dispatch.records(x, *tensors, residual):
        return False
    if algo not in ("", "parts"):
        raise NotImplementedError(
            f"{name}: expected algo to be parts or None where autograd records or torch.func transforms the call, but "
            f"got {algo!r} (kernels that take the whole block have no derivative)"
        )
    return True


def _in_parts(name: str, algo: str, x: Tensor, backend: str) -> bool:
    """Whether the block's convolutions are called one by one though nothing is recorded."""
    if algo:
        return algo == "parts" and (x.dim() != 4 or dispatch.autocast_dtype(x) is not None)
    if x.dim() != 4 or not (_taken_by_cuda(name, x, backend) or (x.is_cpu and not backend)):
        return True
    return dispatch.autocast_dtype(x) is not None


def _lowered(arguments: tuple[Any, ...], stages: tuple[Stage, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """As autocast casts them for conv2d, which leaves parameters of activations alone."""

    def lower(a: Any) -> Any:
        slope = any(a is stage.act_param for stage in stages)
        return dispatch.lower(dtype, a)[0] if isinstance(a, Tensor) and not slope else a

    return tuple(map(lower, arguments))


def _taken_by_cuda(name: str, x: Tensor, backend: str) -> bool:
    """Its kernels are for two types; in others its parts are conv2d's, which autograd and profiles then see."""
    here = backend == "" if x.is_cuda else backend == "cuda_emulated"
    return here and name != "conv_max_pool" and x.dtype in (torch.float16, torch.bfloat16)


def _run(
    name: str,
    parts: Callable[[], Tensor],
    x: Tensor,
    make: Callable[[], tuple[tuple[Any, ...], tuple[int, ...]]],
    stages: dict[str, Stage],
    residual: Tensor | None = None,
) -> Tensor:
    """The operator on arguments up to `algo`, or the block's parts; a refusal has the block's name either way.

    `make` gives the arguments and the groups of each stage; what keeps it from that is found when it has failed.
    """
    arguments: Sequence[Any] | None = None
    try:
        if dispatch.checks_first():
            _require(name, x, **stages)
        backend, members = dispatch.forced_backend(x), tuple(stages.values())
        made, groups = make()
        arguments = (*made, backend)
        algo = arguments[-2]
        if _recorded(name, algo, x, members, residual) or _in_parts(name, algo, x, backend):
            return parts()
        lowered = dispatch.autocast_dtype(x)
        if lowered is not None:
            x, *arguments = _lowered((x, *arguments), members, lowered)
        packed = _packed(members, groups, backend) if lowered is None else [None] * len(members)
        return dispatch.call(getattr(dispatch.operators_of(backend), name), x, *arguments, *packed)
    except Exception as error:
        try:
            _require(name, x, **stages)
        except Exception as better:
            raise better from None
        if arguments is None:
            raise
        dispatch.refused(error, name, blocks.CHECKS[name], x, *arguments)


def inverted_residual(
    x: Tensor,
    expand: Stage,
    depthwise: Stage,
    project: Stage,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    *,
    residual: Tensor | None = None,
    algo: str | None = None,
) -> Tensor:
    """MobileNetV2's block: 1x1 convolution, one filter per channel, 1x1 convolution, each with bias and activation.

    y = act3(project(act2(depthwise(act1(expand(x))))) + residual)

    Equivalent to three calls of `fastconv.functional.conv2d`, the last with `residual`.

    Args:
        x: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        expand: weight (E, C, 1, 1), bias (E,) or None, activation and its parameter, as `conv2d` takes them.
        depthwise: weight (E, 1, R, S); its channels are its groups.
        project: weight (K, E, 1, 1).
        stride, padding, dilation: of the depthwise convolution, as `conv2d` takes them.
        residual: of the output's shape and x's dtype.
        algo: `depth_first` (CPU), `fused_mma` (CUDA), `parts`, or None: the package's choice.

    Returns:
        (N, K, P, Q) with the P and Q of the depthwise convolution; channels_last if x or a weight is.

    Raises:
        As `conv2d`.

    Numerics: sums and everything between the stages in float32 (float64 for float64): in half precision
    `depth_first` rounds once, at the end, where `parts` and `fused_mma` round behind every stage. The result does not
    depend on the number of threads. Where autograd records, the block runs as its three convolutions, and `depth_first`
    and `fused_mma` are refused.
    """
    window = (stride, padding, dilation)
    stages = {"expand": expand, "depthwise": depthwise, "project": project}

    def parts() -> Tensor:
        y = conv2d(x, expand.weight, expand.bias, act=expand.act, act_param=expand.act_param)
        return _pair_in_parts(y, depthwise, project, window, residual)

    def arguments() -> tuple[Any, Any]:
        made = (
            expand.weight, expand.bias, *_epilogue(expand), depthwise.weight, depthwise.bias,
            *_sides(depthwise, *window), *_epilogue(depthwise), project.weight, project.bias, residual,
            *_epilogue(project), algo or "",
        )  # fmt: skip
        return made, (1, depthwise.weight.shape[0], 1)

    return _run("inverted_residual", parts, x, arguments, stages, residual)


def _sides(stage: Stage, stride: IntOrPair, padding: Padding, dilation: IntOrPair) -> tuple[Any, Any, Any]:
    stride, dilation = pair(stride), pair(dilation)
    return stride, four_sides(padding, stage.weight.shape[2:], stride, dilation), dilation


def _pair_in_parts(
    x: Tensor, depthwise: Stage, pointwise: Stage, window: tuple[Any, Any, Any], residual: Tensor | None
) -> Tensor:
    stride, padding, dilation = window
    channels = x.shape[-3] if x.dim() >= 3 else 1
    y = conv2d(
        x, depthwise.weight, depthwise.bias, stride, padding, dilation, channels, act=depthwise.act,
        act_param=depthwise.act_param,
    )  # fmt: skip
    return conv2d(
        y, pointwise.weight, pointwise.bias, residual=residual, act=pointwise.act, act_param=pointwise.act_param
    )


def depthwise_pointwise(
    x: Tensor,
    depthwise: Stage,
    pointwise: Stage,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    *,
    residual: Tensor | None = None,
    algo: str | None = None,
) -> Tensor:
    """MobileNet's block: one filter per channel, then a 1x1 convolution, each with bias and activation.

    y = act2(pointwise(act1(depthwise(x))) + residual)

    Equivalent to two calls of `fastconv.functional.conv2d`. Arguments, result and numerics as `inverted_residual`.
    """
    window, stages = (stride, padding, dilation), {"depthwise": depthwise, "pointwise": pointwise}

    def parts() -> Tensor:
        return _pair_in_parts(x, depthwise, pointwise, window, residual)

    def arguments() -> tuple[Any, Any]:
        made = (
            depthwise.weight, depthwise.bias, *_sides(depthwise, *window), *_epilogue(depthwise), pointwise.weight,
            pointwise.bias, residual, *_epilogue(pointwise), algo or "",
        )  # fmt: skip
        return made, (x.shape[-3], 1)

    return _run("depthwise_pointwise", parts, x, arguments, stages, residual)


def conv_max_pool(
    x: Tensor,
    conv: Stage,
    kernel_size: IntOrPair,
    pool_stride: IntOrPair | None = None,
    pool_padding: IntOrPair = 0,
    pool_dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    algo: str | None = None,
) -> Tensor:
    """A stem: convolution with bias and activation, then the largest value of every window.

    y = max_pool2d(act(conv(x)), kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)

    Equivalent to `fastconv.functional.conv2d` and `max_pool2d`, whose arguments it takes.
    """
    windows = (kernel_size, kernel_size if pool_stride is None else pool_stride, pool_padding, pool_dilation)

    def parts() -> Tensor:
        y = conv2d(
            x, conv.weight, conv.bias, stride, padding, dilation, groups, act=conv.act, act_param=conv.act_param
        )  # fmt: skip
        return max_pool2d(y, *windows, ceil_mode)

    def arguments() -> tuple[Any, Any]:
        made = (
            conv.weight, conv.bias, *_sides(conv, stride, padding, dilation), groups, *_epilogue(conv),
            *map(pair, windows), ceil_mode, algo or "",
        )  # fmt: skip
        return made, (groups,)

    return _run("conv_max_pool", parts, x, arguments, {"conv": conv})
