"""Cases of adaptive pooling, activations, softmax, nearest upsampling, im2col and col2im."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as torch_f

from fastconv import reference as ref

from .case import (
    ACT_PARAM,
    Inputs,
    Results,
    Truth,
    alpha_shape,
    array,
    f64,
    operators,
    present,
    torch_activation,
)
from .image_case import ImageCase


@dataclass(frozen=True, kw_only=True)
class ShapeCase(ImageCase):
    """An operator whose parameters are a shape and a few numbers."""

    shape: tuple[int, ...]

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def problem_string(self) -> str:
        return "x".join(map(str, self.shape))


@dataclass(frozen=True, kw_only=True)
class AdaptiveAvgPoolCase(ShapeCase):
    """adaptive_avg_pool2d; None keeps an axis."""

    op: ClassVar[str] = "adaptive_avg_pool2d"

    output_size: tuple[int | None, int | None]

    @property
    def problem_string(self) -> str:
        return super().problem_string + "+to" + "x".join(map(str, self.output_size))

    def flops(self) -> int:
        return math.prod(self.shape)

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.adaptive_avg_pool2d(x, self.output_size)

    def reference(self, inputs: Inputs) -> Truth:
        if self.backward:
            return (ref.adaptive_avg_pool2d_backward(array(inputs["dy"]), self.shape),)
        return (ref.adaptive_avg_pool2d(array(inputs["x"]), self.output_size),)


@dataclass(frozen=True, kw_only=True)
class AdaptiveMaxPoolCase(AdaptiveAvgPoolCase):
    """adaptive_max_pool2d with indices."""

    op: ClassVar[str] = "adaptive_max_pool2d"

    @property
    def exact(self) -> bool:
        return not self.backward

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.adaptive_max_pool2d(x, self.output_size, True)

    def reference(self, inputs: Inputs) -> Truth:
        y, index = ref.adaptive_max_pool2d(array(inputs["x"]), self.output_size)
        return (ref.max_pool2d_backward(array(inputs["dy"]), index, self.shape),) if self.backward else (y, index)


@dataclass(frozen=True, kw_only=True)
class ActivationCase(ShapeCase):
    """One activation on its own; PReLU's backward returns dalpha as well."""

    op: ClassVar[str] = "activation"

    act: str
    alpha: str = "one"

    @property
    def problem_string(self) -> str:
        return f"{super().problem_string}+" + (f"prelu_{self.alpha}" if self.act == "prelu" else self.act)

    @property
    def exact(self) -> bool:
        return super().exact and not self.backward

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def _param(self) -> float:
        return ACT_PARAM.get(self.act, 0.0)

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        inputs = super().make_inputs(dtype, layout, seed)
        if self.act == "prelu":
            generator = torch.Generator().manual_seed(seed + 1)
            shape = alpha_shape(self.alpha, self.shape)
            inputs["alpha"] = torch.randint(-3, 4, shape, generator=generator).to(dtype) / 4
        return inputs

    def reference(self, inputs: Inputs) -> Truth:
        x, alpha = array(inputs["x"]), f64(inputs.get("alpha"))
        if not self.backward:
            return (ref.activation(x, self.act, self._param, alpha),)
        dy = array(inputs["dy"])
        dx = ref.activation_backward(dy, x, self.act, self._param, alpha)
        return (dx,) if alpha is None else (dx, ref.prelu_alpha_grad(dy, x, alpha.shape))

    def _with_alpha(self, forward: Any, inputs: Inputs) -> Results:
        """forward(x, alpha), or its gradients."""
        x, alpha = present(inputs["x"]).detach(), inputs.get("alpha")
        if not self.backward:
            return (forward(x, alpha),)
        leaves = [leaf.detach().requires_grad_() for leaf in (x, alpha) if leaf is not None]
        with torch.enable_grad():
            y = forward(*leaves, *([] if alpha is not None else [None]))
        return torch.autograd.grad(y, leaves, present(inputs["dy"]))

    def torch(self, inputs: Inputs) -> Results:
        return self._with_alpha(lambda x, alpha: torch_activation(x, self.act, alpha), inputs)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        operator = operators(backend).activation
        return self._with_alpha(lambda x, alpha: operator(x, self.act, self._param, alpha, backend), inputs)


@dataclass(frozen=True, kw_only=True)
class SoftmaxCase(ShapeCase):
    """softmax along one axis."""

    op: ClassVar[str] = "softmax"

    dim: int = -1

    @property
    def problem_string(self) -> str:
        return f"{super().problem_string}+dim{self.dim}"

    @property
    def exact(self) -> bool:
        return False

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.softmax(x, self.dim)

    def reference(self, inputs: Inputs) -> Truth:
        y = ref.softmax(array(inputs["x"]), self.dim)
        return (ref.softmax_backward(array(inputs["dy"]), y, self.dim),) if self.backward else (y,)


@dataclass(frozen=True, kw_only=True)
class Im2colCase(ShapeCase):
    """torch's unfold; a copy, so compared exactly."""

    op: ClassVar[str] = "im2col"

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def problem_string(self) -> str:
        window = (("k", self.kernel), ("s", self.stride), ("p", self.padding), ("d", self.dilation))
        return super().problem_string + "".join(f"+{name}{a}x{b}" for name, (a, b) in window)

    @property
    def exact(self) -> bool:
        return not self.backward

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.im2col(x, self.kernel, self.stride, self.padding, self.dilation)

    def _torch_forward(self, x: torch.Tensor) -> Any:
        return torch_f.unfold(x, self.kernel, self.dilation, self.padding, self.stride)

    def _window(self) -> tuple[tuple[int, int], ...]:
        return self.kernel, self.stride, self.padding, self.dilation

    def reference(self, inputs: Inputs) -> Truth:
        if self.backward:
            return (ref.col2im(array(inputs["dy"]), (self.shape[2], self.shape[3]), *self._window()),)
        return (ref.im2col(array(inputs["x"]), *self._window()),)


@dataclass(frozen=True, kw_only=True)
class Col2imCase(Im2colCase):
    """torch's fold, onto an image of `shape` (N, C, H, W)."""

    op: ClassVar[str] = "col2im"

    @property
    def x_shape(self) -> tuple[int, ...]:
        n, c, height, width = self.shape
        p, q = ref.conv2d_output_size((height, width), self.kernel, self.stride, self.padding, self.dilation)
        return n, c * self.kernel[0] * self.kernel[1], p * q

    @property
    def exact(self) -> bool:
        return self.fill == "integer" and not self.backward

    @property
    def _size(self) -> tuple[int, int]:
        return self.shape[2], self.shape[3]

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.col2im(x, self._size, self.kernel, self.stride, self.padding, self.dilation)

    def _torch_forward(self, x: torch.Tensor) -> Any:
        return torch_f.fold(x, self._size, self.kernel, self.dilation, self.padding, self.stride)

    def reference(self, inputs: Inputs) -> Truth:
        if self.backward:
            return (ref.im2col(array(inputs["dy"]), *self._window()),)
        return (ref.col2im(array(inputs["x"]), self._size, *self._window()),)


@dataclass(frozen=True, kw_only=True)
class UpsampleCase(ShapeCase):
    """Nearest upsampling on its own: torch's interpolate by a whole factor."""

    op: ClassVar[str] = "upsample_nearest2d"

    factor: tuple[int, int] = (2, 2)

    @property
    def problem_string(self) -> str:
        return f"{super().problem_string}+by{self.factor[0]}x{self.factor[1]}"

    @property
    def exact(self) -> bool:
        return not self.backward

    @property
    def _out(self) -> list[int]:
        return [self.shape[2] * self.factor[0], self.shape[3] * self.factor[1]]

    def _torch_forward(self, x: torch.Tensor) -> Any:
        return torch_f.interpolate(x, size=self._out, mode="nearest")

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        operator = operators(backend).upsample_nearest2d
        return self._results(lambda x: operator(x, self.factor, backend), inputs)

    def reference(self, inputs: Inputs) -> Truth:
        if self.backward:
            return (ref.upsample_nearest2d_backward(array(inputs["dy"]), self.shape, self._out),)
        return (ref.upsample_nearest2d(array(inputs["x"]), self._out),)
