"""Cases of the gradients of conv2d and upsample_conv2d."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as torch_f

from fastconv import reference as ref

from .case import (
    Inputs,
    Results,
    Truth,
    array,
    as_view,
    functional,
    in_layout,
    make_tensor,
    on_backend,
    operators,
    present,
)
from .conv_cases import ConvCase, UpsampleConvCase
from .emulator_settings import emulator_settings


@dataclass(frozen=True, kw_only=True)
class _ConvGradCase(ConvCase):
    """A gradient of the plain convolution: operands x, weight and dy, the view being dy's."""

    bias: bool = False

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        p, generator = self.problem, torch.Generator().manual_seed(seed)
        x, dy = (make_tensor(shape, dtype, generator, self.fill) for shape in (p.x_shape, self.out_shape))
        weight = make_tensor(p.w_shape, dtype, generator, self.fill, self._weight_scale())
        return {
            "x": in_layout(x, layout),
            "weight": in_layout(weight, layout),
            "dy": as_view(in_layout(dy, layout), self.view),
        }

    def _weight_scale(self) -> float:
        p = self.problem
        return max(1, p.out_channels // p.groups * p.kernel[0] * p.kernel[1]) ** -0.5

    def bytes(self, element_size: int) -> int:
        return element_size * sum(map(math.prod, (self.problem.x_shape, self.problem.w_shape, self.out_shape)))

    def _torch_gradient(self, inputs: Inputs, name: str) -> Results:
        p, operands = self.problem, {n: present(inputs[n]).detach() for n in ("x", "weight")}
        operands[name].requires_grad_()
        with torch.enable_grad():
            y = torch_f.conv2d(
                self.torch_image(operands["x"]), operands["weight"], None, p.stride, 0, p.dilation, p.groups
            )
        return (torch.autograd.grad(y, operands[name], inputs["dy"])[0],)


@dataclass(frozen=True, kw_only=True)
class ConvInputGradCase(_ConvGradCase):
    """dx of conv2d, from dy and weight."""

    op: ClassVar[str] = "conv2d_input_grad"

    def reference(self, inputs: Inputs) -> Truth:
        dy, weight = array(inputs["dy"]), array(inputs["weight"])
        return (ref.conv2d_input_grad(dy, weight, self.problem.x_shape, *self._window()),)

    def torch(self, inputs: Inputs) -> Results:
        return self._torch_gradient(inputs, "x")

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        arguments = (inputs["dy"], inputs["weight"], list(self.problem.x_shape), *self._window())
        return (operators(backend).conv2d_input_grad(*arguments, algo, backend),)


@dataclass(frozen=True, kw_only=True)
class ConvWeightGradCase(_ConvGradCase):
    """dweight of conv2d, from dy and x."""

    op: ClassVar[str] = "conv2d_weight_grad"

    multiprocessors: int = 0  # of the emulated GPU; 0: as many as it has

    @property
    def problem_string(self) -> str:
        return super().problem_string + (f"+multiprocessors{self.multiprocessors}" if self.multiprocessors else "")

    def reference(self, inputs: Inputs) -> Truth:
        dy, x = array(inputs["dy"]), array(inputs["x"])
        return (ref.conv2d_weight_grad(dy, x, self.problem.w_shape, *self._window()),)

    def torch(self, inputs: Inputs) -> Results:
        return self._torch_gradient(inputs, "weight")

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        arguments = (inputs["dy"], inputs["x"], list(self.problem.w_shape), *self._window())
        with emulator_settings(multiprocessors=self.multiprocessors):
            return (operators(backend).conv2d_weight_grad(*arguments, algo, backend),)


@dataclass(frozen=True, kw_only=True)
class UpsampleConvGradCase(UpsampleConvCase):
    """dx and dweight of upsample_conv2d, by autograd through the public function."""

    bias: bool = False

    @property
    def problem_string(self) -> str:
        return super().problem_string + "+backward"

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        inputs = super().make_inputs(dtype, layout, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        inputs["dy"] = in_layout(make_tensor(self.out_shape, dtype, generator, self.fill), layout)
        return inputs

    def reference(self, inputs: Inputs) -> Truth:
        p, (x, w, dy) = self.problem, (array(inputs[name]) for name in ("x", "weight", "dy"))
        dx = ref.upsample_conv2d_input_grad(dy, w, p.x_shape, p.upsample, *self._window())
        return dx, ref.upsample_conv2d_weight_grad(dy, x, p.w_shape, p.upsample, *self._window())

    def _gradients(self, inputs: Inputs, forward: Callable[..., torch.Tensor]) -> Results:
        x, weight = (present(inputs[name]).detach().requires_grad_() for name in ("x", "weight"))
        with torch.enable_grad():
            y = forward(x, weight)
        return torch.autograd.grad(y, (x, weight), inputs["dy"])

    def torch(self, inputs: Inputs) -> Results:
        p = self.problem
        return self._gradients(
            inputs, lambda x, w: torch_f.conv2d(self.torch_image(x), w, None, p.stride, 0, p.dilation, p.groups)
        )

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        p, ours = self.problem, functional()
        window = (p.upsample, p.stride, p.padding, p.dilation, p.groups)
        with on_backend(backend):
            return self._gradients(inputs, lambda x, w: ours.upsample_conv2d(x, w, None, *window, algo=algo or None))


@dataclass(frozen=True, kw_only=True)
class ConvBiasGradCase(_ConvGradCase):
    """dbias of conv2d: dy summed over all but the channels."""

    op: ClassVar[str] = "channel_sum"

    def flops(self) -> int:
        return math.prod(self.out_shape)

    def reference(self, inputs: Inputs) -> Truth:
        return (ref.conv2d_bias_grad(array(inputs["dy"])),)

    def torch(self, inputs: Inputs) -> Results:
        return (present(inputs["dy"]).sum(dim=(0, 2, 3)),)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        return (operators(backend).channel_sum(inputs["dy"], backend),)
