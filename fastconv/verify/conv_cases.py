"""Cases of the convolutions: conv2d, upsample_conv2d and conv_transpose2d."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as torch_f

from fastconv import reference as ref
from fastconv.bench.problem import WindowProblem

from .case import (
    ACT_PARAM,
    Case,
    Inputs,
    Results,
    Truth,
    alpha_shape,
    array,
    as_view,
    f64,
    in_layout,
    make_tensor,
    operators,
    poison,
    present,
    torch_activation,
)

C = TypeVar("C", bound="ConvCase")


@dataclass(frozen=True, kw_only=True)
class ConvCase(Case):
    """act(scale * (conv(x, weight) + bias) + shift + residual); the base of the whole family.

    `problem` holds the shapes. `padding` (top, bottom, left, right), where given, replaces its symmetric one. `alpha`
    is PReLU's form: "one", "channel" or "full".
    """

    op: ClassVar[str] = "conv2d"

    problem: WindowProblem
    padding: tuple[int, int, int, int] | None = None
    bias: bool = True
    scale: bool = False
    shift: bool = False
    residual: bool = False
    act: str = "identity"
    alpha: str = "one"

    @classmethod
    def parse(cls: type[C], text: str, **options: Any) -> C:
        """A case from benchdnn's notation, mb8ic64ih56oc64oh56kh3ph1, and any of the other fields by name."""
        return cls(problem=WindowProblem.parse(text, cls.op), **options)

    # ---- shapes

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right)."""
        if self.padding is not None:
            return self.padding
        vertical, horizontal = self.problem.padding
        return vertical, vertical, horizontal, horizontal

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """(N, K, P, Q)."""
        p = self.problem
        image = (p.height * p.upsample[0], p.width * p.upsample[1])
        size = ref.conv2d_output_size(image, p.kernel, p.stride, self.sides, p.dilation)
        return p.batch, p.out_channels, *size

    @property
    def problem_string(self) -> str:
        marks = [str(self.problem)]
        if self.padding is not None:
            marks.append("pad" + "_".join(map(str, self.padding)))
        marks += [name for name in ("scale", "shift", "residual") if getattr(self, name)]
        marks += [] if self.bias else ["nobias"]
        if self.act != "identity":
            marks.append(f"prelu_{self.alpha}" if self.act == "prelu" else self.act)
        return "+".join(marks)

    def flops(self) -> int:
        p = self.problem
        window = p.in_channels // p.groups * p.kernel[0] * p.kernel[1]
        return 2 * math.prod(self.out_shape) * window

    def bytes(self, element_size: int) -> int:
        p = self.problem
        outputs = math.prod(self.out_shape) * (2 if self.residual else 1)
        vectors = p.out_channels * (self.bias + self.scale + self.shift)
        return element_size * (math.prod(p.x_shape) + math.prod(p.w_shape) + vectors + outputs)

    # ---- operands

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        p, generator = self.problem, torch.Generator().manual_seed(seed)
        fan_in = max(1, p.in_channels // p.groups * p.kernel[0] * p.kernel[1])

        def tensor(shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
            return make_tensor(shape, dtype, generator, self.fill, scale)

        def vector(there: bool) -> torch.Tensor | None:
            return tensor((p.out_channels,)) if there else None

        weight = in_layout(tensor(p.w_shape, fan_in**-0.5), layout)
        if self.view == "weight":
            weight = as_view(weight, "transposed")
        inputs: Inputs = {
            "x": as_view(in_layout(poison(tensor(p.x_shape), self.fill), layout), self.view),
            "weight": weight,
            "bias": vector(self.bias),
            "scale": vector(self.scale),
            "shift": vector(self.shift),
            "residual": in_layout(tensor(self.out_shape), layout) if self.residual else None,
            "alpha": None,
        }
        if self.act == "prelu":  # quarters: exact in every dtype
            shape = alpha_shape(self.alpha, self.out_shape)
            inputs["alpha"] = torch.randint(-3, 4, shape, generator=generator).to(dtype) / 4
        return inputs

    # ---- results

    def _window(self) -> tuple[Any, ...]:
        """stride, padding, dilation, groups, as the reference and the operators take them."""
        p = self.problem
        return list(p.stride), list(self.sides), list(p.dilation), p.groups

    def _fused(self) -> tuple[str, float]:
        return self.act, ACT_PARAM.get(self.act, 0.0)

    def reference(self, inputs: Inputs) -> Truth:
        i = inputs
        vectors = (f64(i["scale"]), f64(i["shift"]), f64(i["residual"]))
        rest: tuple[Any, ...] = (*self._window(), *vectors, *self._fused(), f64(i["alpha"]))
        return (ref.conv2d(array(i["x"]), array(i["weight"]), f64(i["bias"]), *rest),)

    def torch_image(self, x: torch.Tensor) -> torch.Tensor:
        """x as torch's unpadded conv2d needs it."""
        top, bottom, left, right = self.sides
        return torch_f.pad(x, (left, right, top, bottom))

    def torch(self, inputs: Inputs) -> Results:
        p, i = self.problem, inputs
        image, weight = self.torch_image(present(i["x"])), present(i["weight"])
        y = torch_f.conv2d(image, weight, i["bias"], p.stride, 0, p.dilation, p.groups)
        for name, combine in (("scale", torch.mul), ("shift", torch.add)):
            vector = i[name]
            if vector is not None:
                y = combine(y, vector.reshape(1, -1, 1, 1))
        residual = i["residual"]
        if residual is not None:
            y = y + residual
        return (torch_activation(y, self.act, i["alpha"]),)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        i = inputs
        fused = (i["scale"], i["shift"], i["residual"], *self._fused(), i["alpha"])
        return (
            operators(backend).conv2d(i["x"], i["weight"], i["bias"], *self._window(), *fused, algo, backend, None),
        )


@dataclass(frozen=True, kw_only=True)
class UpsampleConvCase(ConvCase):
    """Nearest upsampling by `problem.upsample`, then conv2d."""

    op: ClassVar[str] = "upsample_conv2d"

    def reference(self, inputs: Inputs) -> Truth:
        i, factor = inputs, self.problem.upsample
        vectors = (f64(i["scale"]), f64(i["shift"]), f64(i["residual"]))
        rest: tuple[Any, ...] = (factor, *self._window(), *vectors, *self._fused(), f64(i["alpha"]))
        return (ref.upsample_conv2d(array(i["x"]), array(i["weight"]), f64(i["bias"]), *rest),)

    def torch_image(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self.problem.upsample
        return super().torch_image(x.repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3))

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        i, factor = inputs, list(self.problem.upsample)
        fused = (i["scale"], i["shift"], i["residual"], *self._fused(), i["alpha"])
        operands = (i["x"], i["weight"], i["bias"], factor)
        return (operators(backend).upsample_conv2d(*operands, *self._window(), *fused, algo, backend, None),)


@dataclass(frozen=True, kw_only=True)
class ConvTransposeCase(ConvCase):
    """conv_transpose2d: no fused epilogue, symmetric padding."""

    op: ClassVar[str] = "conv_transpose2d"

    output_padding: tuple[int, int] = (0, 0)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        p, (rows, columns) = self.problem, self.problem.out_size
        return p.batch, p.out_channels, rows + self.output_padding[0], columns + self.output_padding[1]

    @property
    def problem_string(self) -> str:
        extra = "" if self.output_padding == (0, 0) else "+out" + "_".join(map(str, self.output_padding))
        return super().problem_string + extra

    def flops(self) -> int:
        return self.problem.flops()

    def _arguments(self) -> tuple[Any, ...]:
        """stride, padding, output_padding, groups, dilation: torch's order."""
        p = self.problem
        return list(p.stride), list(p.padding), list(self.output_padding), p.groups, list(p.dilation)

    def reference(self, inputs: Inputs) -> Truth:
        i = inputs
        return (ref.conv_transpose2d(array(i["x"]), array(i["weight"]), f64(i["bias"]), *self._arguments()),)

    def torch(self, inputs: Inputs) -> Results:
        i = inputs
        return (torch_f.conv_transpose2d(present(i["x"]), present(i["weight"]), i["bias"], *self._arguments()),)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        i = inputs
        arguments = (i["x"], i["weight"], i["bias"], *self._arguments(), algo, backend, None)
        return (operators(backend).conv_transpose2d(*arguments),)
