"""What `fastconv bench` can run: for every operation its operands, our call, torch's call and the float64 truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as torch_f

from fastconv.bench.problem import GemmProblem, Problem, WindowProblem

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LAYOUTS = ("nchw", "nhwc")
_MEMORY_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

# torch's own activations, in place where torch has an in-place form, as a careful user of eager mode would write them.
TORCH_ACTIVATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "identity": lambda y, _: y,
    "relu": lambda y, _: torch_f.relu(y, inplace=True),
    "relu6": lambda y, _: torch_f.relu6(y, inplace=True),
    "leaky_relu": lambda y, _: torch_f.leaky_relu(y, 0.01, inplace=True),
    "prelu": lambda y, alpha: torch_f.prelu(y, alpha if alpha is not None else y.new_full((1,), 0.25)),
    "sigmoid": lambda y, _: y.sigmoid_(),
    "tanh": lambda y, _: y.tanh_(),
    "silu": lambda y, _: torch_f.silu(y, inplace=True),
    "hardswish": lambda y, _: torch_f.hardswish(y, inplace=True),
    "hardsigmoid": lambda y, _: torch_f.hardsigmoid(y, inplace=True),
    "gelu": lambda y, _: torch_f.gelu(y),
    "elu": lambda y, _: torch_f.elu(y, 1.0, inplace=True),
}


@dataclass(frozen=True)
class Workload:
    """One call to measure. `group` is the line of the summary that it counts in, `name` its name within the group."""

    op: str
    problem: Problem
    dtype: str = "float32"
    act: str = "identity"
    bias: bool = True
    residual: bool = False
    group: str = ""
    name: str = ""

    def flops(self) -> int:
        """Operations of the definition, activation not counted."""
        return self.problem.flops()

    def kind(self) -> str:
        """What a convolution is to those who make kernels; empty for other operations."""
        p = self.problem
        if self.op != "conv2d" or isinstance(p, GemmProblem):
            return ""
        size = f"{p.kernel[0]}x{p.kernel[1]}"
        if p.in_channels < 8:
            return "stem"
        if p.groups == p.in_channels:
            return "depthwise"
        if p.groups > 1:
            return f"grouped {size}"
        if size == "1x1":
            return size
        return f"{size} stride {p.stride[0]}" + ("" if p.in_channels >= 64 else ", few channels")

    def bytes(self) -> int:
        """The least memory traffic of the call."""
        return self.problem.bytes(DTYPES[self.dtype].itemsize)


@dataclass(frozen=True)
class Operands:
    """The tensors of one call; `x` is `a` and `weight` is `b` of a matrix product."""

    x: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    alpha: torch.Tensor | None = None
    dy: torch.Tensor | None = None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Operands:
        """The same operands, each tensor changed."""
        changed = {name: change(value) for name, value in vars(self).items() if value is not None}
        return replace(self, **changed)


def make_operands(workload: Workload, device: str = "cpu", seed: int = 0) -> Operands:
    """Random operands, contiguous, scaled so that outputs are of order one in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    dtype = DTYPES[workload.dtype]

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device=device, dtype=dtype)

    problem = workload.problem
    if isinstance(problem, GemmProblem):
        features, out_shape = problem.n, (*problem.a_shape[:-1], problem.n)
        x, weight = normal(problem.a_shape), normal(problem.b_shape, problem.k**-0.5)
    else:
        x = normal(problem.x_shape)
        if problem.pooling:
            return Operands(x)
        fan_in = problem.in_channels // problem.groups * problem.kernel[0] * problem.kernel[1]
        features, out_shape = problem.out_channels, (problem.batch, problem.out_channels, *problem.out_size)
        weight = normal(problem.w_shape, fan_in**-0.5)
        if workload.op in GRADIENTS:
            pixels = problem.batch * problem.out_size[0] * problem.out_size[1]
            scale = pixels**-0.5 if workload.op == "conv2d_weight_grad" else 1.0
            return Operands(x, weight, dy=normal(out_shape, scale))
    return Operands(
        x=x,
        weight=weight,
        bias=normal((features,)) if workload.bias else None,
        residual=normal(out_shape) if workload.residual else None,
        alpha=normal((features,), 0.25) if workload.act == "prelu" else None,
    )


def in_layout(operands: Operands, layout: str) -> Operands:
    """The operands with every image, and the filter, in `layout`."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=_MEMORY_FORMATS[layout]) if tensor.dim() == 4 else tensor

    return operands.map(change)


def _epilogue(workload: Workload, operands: Operands) -> Callable[[torch.Tensor], torch.Tensor]:
    act, alpha, residual = TORCH_ACTIVATIONS[workload.act], operands.alpha, operands.residual
    if residual is None:
        return lambda y: act(y, alpha)
    return lambda y: act(y.add_(residual), alpha)


def torch_call(workload: Workload, operands: Operands) -> Callable[[], torch.Tensor]:
    """The call as an eager torch program makes it; of float64 operands it is the truth that rows are held to."""
    p, o = workload.problem, operands
    finish = _epilogue(workload, operands)
    if isinstance(p, GemmProblem):
        return _torch_gemm(p, o, finish)
    if workload.op == "max_pool2d":
        return lambda: torch_f.max_pool2d(o.x, p.kernel, p.stride, p.padding, p.dilation)
    if workload.op == "avg_pool2d":
        return lambda: torch_f.avg_pool2d(o.x, p.kernel, p.stride, p.padding)
    weight = _present(o.weight)
    if workload.op == "conv_transpose2d":
        transposed = (p.stride, p.padding, 0, p.groups, p.dilation)
        return lambda: finish(torch_f.conv_transpose2d(o.x, weight, o.bias, *transposed))
    if workload.op in GRADIENTS:
        wanted = [op == workload.op for op in GRADIENTS]
        rest = (p.stride, p.padding, p.dilation, False, (0, 0), p.groups, [*wanted, False])
        backward, dy = torch.ops.aten.convolution_backward.default, _present(o.dy)
        return lambda: backward(dy, o.x, weight, None, *rest)[wanted.index(True)]
    window = (p.stride, p.padding, p.dilation, p.groups)
    if workload.op == "upsample_conv2d":
        return lambda: finish(torch_f.conv2d(_upsampled(o.x, p), weight, o.bias, *window))
    return lambda: finish(torch_f.conv2d(o.x, weight, o.bias, *window))


def _upsampled(x: torch.Tensor, problem: WindowProblem) -> torch.Tensor:
    return torch_f.interpolate(x, scale_factor=tuple(float(s) for s in problem.upsample), mode="nearest")


def problem_fields(workload: Workload, layout: str) -> dict[str, Any]:
    """The workload in the terms of `fastconv.explain(op, **fields)`."""
    p = workload.problem
    common = {"dtype": workload.dtype, "act": workload.act, "bias": workload.bias, "residual": workload.residual}
    if isinstance(p, GemmProblem):
        return {**p.kernel_fields(), **common}
    channels_last = layout == "nhwc"
    return {
        **p.kernel_fields(),
        "channels_last": channels_last,
        "weight_channels_last": channels_last,
        **common,
    }


def _torch_gemm(
    problem: GemmProblem, o: Operands, finish: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[], torch.Tensor]:
    weight, bias = _present(o.weight), o.bias
    if bias is None:
        return lambda: finish(torch.matmul(o.x, weight))
    if problem.batch:
        return lambda: finish(torch.matmul(o.x, weight).add_(bias))
    return lambda: finish(torch.addmm(bias, o.x, weight))


class OneCall(torch.nn.Module):
    """The call as a network of one layer, for engines that take networks."""

    def __init__(self, workload: Workload, operands: Operands) -> None:
        super().__init__()
        self.workload = workload
        self.names = [name for name, value in vars(operands).items() if name != "x" and value is not None]
        for name in self.names:
            self.register_buffer(name, getattr(operands, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = {name: self.get_buffer(name) for name in self.names}
        return torch_call(self.workload, Operands(x, **kept))()


def our_call(workload: Workload, operands: Operands, algo: str | None = None) -> Callable[[], torch.Tensor]:
    """The same call through `fastconv.functional`, epilogue fused."""
    from fastconv import functional as ours

    p, o = workload.problem, operands
    if workload.op == "max_pool2d" and isinstance(p, WindowProblem):
        window = p
        return lambda: ours.max_pool2d(o.x, window.kernel, window.stride, window.padding, window.dilation)
    if workload.op == "avg_pool2d" and isinstance(p, WindowProblem):
        window = p
        return lambda: ours.avg_pool2d(o.x, window.kernel, window.stride, window.padding)
    weight = _present(o.weight)
    if workload.op in GRADIENTS and isinstance(p, WindowProblem):
        return _our_gradient(workload.op, p, o, algo)
    act_param = o.alpha if workload.act == "prelu" else None
    tail: dict[str, Any] = {"residual": o.residual, "act": workload.act, "act_param": act_param, "algo": algo}
    if isinstance(p, GemmProblem):
        return lambda: ours.gemm(o.x, weight, o.bias, **tail)
    if workload.op == "conv_transpose2d":
        # torch's signature has no fused epilogue; `check` refuses an activation for it
        rest = (p.stride, p.padding, 0, p.groups, p.dilation)
        return lambda: ours.conv_transpose2d(o.x, weight, o.bias, *rest, algo=algo)
    rest4 = (p.stride, p.padding, p.dilation, p.groups)
    if workload.op == "upsample_conv2d":
        return lambda: ours.upsample_conv2d(o.x, weight, o.bias, p.upsample, *rest4, **tail)
    return lambda: ours.conv2d(o.x, weight, o.bias, *rest4, **tail)


def _our_gradient(op: str, p: WindowProblem, o: Operands, algo: str | None) -> Callable[[], torch.Tensor]:
    """The operators behind autograd, which have no public function of their own."""
    weight, dy = _present(o.weight), _present(o.dy)
    (pad_h, pad_w), operators = p.padding, torch.ops.fastconv
    rest = (list(p.stride), [pad_h, pad_h, pad_w, pad_w], list(p.dilation), p.groups, algo or "", "")
    if op == "conv2d_input_grad":
        return lambda: operators.conv2d_input_grad.default(dy, weight, p.x_shape, *rest)
    return lambda: operators.conv2d_weight_grad.default(dy, o.x, p.w_shape, *rest)


def _present(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:
        raise TypeError("this operation has a weight")
    return tensor


GRADIENTS = ("conv2d_input_grad", "conv2d_weight_grad")
OPS = ("conv2d", "upsample_conv2d", "conv_transpose2d", "gemm", "max_pool2d", "avg_pool2d", *GRADIENTS)
_NO_EPILOGUE = ("conv_transpose2d", "max_pool2d", "avg_pool2d", *GRADIENTS)


def check(workload: Workload) -> None:
    """Raises ValueError for a combination that has no call."""
    names = (("op", OPS), ("dtype", tuple(DTYPES)), ("act", tuple(TORCH_ACTIVATIONS)))
    for argument, valid in names:
        value = getattr(workload, argument)
        if value not in valid:
            raise ValueError(f"bench: expected {argument} to be one of {', '.join(valid)}, but got {value!r}")
    if workload.op in _NO_EPILOGUE and (workload.act != "identity" or workload.residual):
        raise ValueError(f"bench: expected no act and no residual with {workload.op}, which has no fused epilogue")
