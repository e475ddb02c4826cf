"""Cases of blocks: inverted_residual, depthwise_pointwise and conv_max_pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as torch_f

from fastconv import introspection
from fastconv import reference as ref

from .case import (
    ACT_PARAM,
    Case,
    Inputs,
    Results,
    Truth,
    as_view,
    f64,
    in_layout,
    make_tensor,
    operators,
    poison,
    present,
    torch_activation,
)  # fmt: skip

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BlockCase(Case):
    """A chain of convolutions in one call. `acts` has one activation a stage; PReLU's slopes are per channel."""

    batch: int = 1
    channels: int = 4
    size: tuple[int, int] = (5, 6)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    filters: int = 5
    acts: tuple[str, ...] = ()
    bias: bool = True
    residual: bool = False

    # ---- stages, from the first to the last: name, weight's shape, groups, geometry

    def stages(self) -> list[tuple[str, Shape, int, bool]]:
        """(name, shape of the weight, groups, whether it has the window) of every convolution."""
        raise NotImplementedError

    def _rest(self) -> tuple[Any, ...]:
        """What the schemas have between the stages' arguments and algo."""
        return ()

    @property
    def inner_size(self) -> tuple[int, int]:
        """Rows and columns of the convolutions' result."""
        return ref.conv2d_output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def out_shape(self) -> Shape:
        return (self.batch, self.filters, *self.inner_size)

    @property
    def exact(self) -> bool:
        # In half precision `parts` rounds between the stages: integers up to 6 survive that.
        return self.fill == "integer" and all(act == "relu6" for act in self.acts[:-1])

    @property
    def problem_string(self) -> str:
        chain = "-".join(str(shape[0]) for _, shape, _, _ in self.stages())
        text = f"mb{self.batch}ic{self.channels}ih{self.size[0]}iw{self.size[1]}k{chain}"
        text += f"kh{self.kernel[0]}kw{self.kernel[1]}sh{self.stride[0]}sw{self.stride[1]}"
        text += "p" + "_".join(map(str, self.padding)) + f"d{self.dilation[0]}_{self.dilation[1]}"
        marks = [*self.acts, *(["residual"] if self.residual else []), *([] if self.bias else ["nobias"])]
        return "+".join([text, *marks])

    def flops(self) -> int:
        rows, total = self.size, 0
        for _, shape, _, window in self.stages():
            rows = self.inner_size if window else rows
            total += 2 * self.batch * math.prod(rows) * math.prod(shape)
        return total

    def bytes(self, element_size: int) -> int:
        weights = sum(math.prod(shape) + shape[0] for _, shape, _, _ in self.stages())
        images = self.batch * self.channels * math.prod(self.size) + math.prod(self.out_shape) * (1 + self.residual)
        return element_size * (weights + images)

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        x = make_tensor((self.batch, self.channels, *self.size), dtype, generator, self.fill)
        inputs: Inputs = {"x": as_view(in_layout(poison(x, self.fill), layout), self.view)}
        for (name, shape, _, _), act in zip(self.stages(), self.acts, strict=True):
            scale = max(1, math.prod(shape[1:])) ** -0.5
            weight = in_layout(make_tensor(shape, dtype, generator, self.fill, scale), layout)
            inputs[name] = as_view(weight, "transposed") if self.view == "weight" else weight
            inputs[name + "_bias"] = make_tensor(shape[:1], dtype, generator, self.fill) if self.bias else None
            slopes = torch.randint(-3, 4, shape[:1], generator=generator).to(dtype) / 4
            inputs[name + "_alpha"] = slopes if act == "prelu" else None
        residual = make_tensor(self.out_shape, dtype, generator, self.fill)
        inputs["residual"] = in_layout(residual, layout) if self.residual else None
        return inputs

    def _arguments(self, i: dict[str, Any]) -> tuple[Any, ...]:
        """The schema's arguments up to algo, from tensors or arrays."""
        arguments: list[Any] = [i["x"]]
        stages = self.stages()
        for index, ((name, _, groups, window), act) in enumerate(zip(stages, self.acts, strict=True)):
            arguments += [i[name], i[name + "_bias"]]
            if window:
                arguments += [list(self.stride), list(self.padding), list(self.dilation)]
            if self.op == "conv_max_pool":
                arguments.append(groups)
            elif index == len(stages) - 1:
                arguments.append(i["residual"])
            arguments += [act, ACT_PARAM.get(act, 0.0), i[name + "_alpha"]]
        return (*arguments, *self._rest())

    def reference(self, inputs: Inputs) -> Truth:
        return (getattr(ref, self.op)(*self._arguments({name: f64(t) for name, t in inputs.items()})),)

    def torch(self, inputs: Inputs) -> Results:
        y, stages = present(inputs["x"]), self.stages()
        for index, ((name, _, groups, window), act) in enumerate(zip(stages, self.acts, strict=True)):
            if window:
                top, bottom, left, right = self.padding
                y = torch_f.pad(y, (left, right, top, bottom))
            steps, gaps = (self.stride, self.dilation) if window else ((1, 1), (1, 1))
            y = torch_f.conv2d(y, present(inputs[name]), inputs[name + "_bias"], steps, 0, gaps, groups)
            residual = inputs["residual"] if index == len(stages) - 1 else None
            y = torch_activation(y if residual is None else y + residual, act, inputs[name + "_alpha"])
        return (y,)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        from fastconv.ops import blocks

        arguments, own = self._arguments(inputs), operators(backend)
        if backend.startswith("cuda") and not introspection.algorithm_names(self.op, backend):
            return (blocks.parts(self.op, own, (*arguments, algo, backend), backend),)
        packed = [None] * len(self.stages())
        return (getattr(own, self.op)(*arguments, algo, backend, *packed),)


@dataclass(frozen=True, kw_only=True)
class InvertedResidualCase(BlockCase):
    """1x1, one filter per channel, 1x1."""

    op: ClassVar[str] = "inverted_residual"

    hidden: int = 6
    acts: tuple[str, ...] = ("relu6", "relu6", "identity")

    def stages(self) -> list[tuple[str, Shape, int, bool]]:
        return [
            ("expand", (self.hidden, self.channels, 1, 1), 1, False),
            ("depthwise", (self.hidden, 1, *self.kernel), self.hidden, True),
            ("project", (self.filters, self.hidden, 1, 1), 1, False),
        ]


@dataclass(frozen=True, kw_only=True)
class DepthwisePointwiseCase(BlockCase):
    """One filter per channel (or `multiplier`), 1x1."""

    op: ClassVar[str] = "depthwise_pointwise"

    multiplier: int = 1
    acts: tuple[str, ...] = ("relu6", "relu6")

    def stages(self) -> list[tuple[str, Shape, int, bool]]:
        filtered = self.channels * self.multiplier
        return [
            ("depthwise", (filtered, 1, *self.kernel), self.channels, True),
            ("pointwise", (self.filters, filtered, 1, 1), 1, False),
        ]


@dataclass(frozen=True, kw_only=True)
class ConvMaxPoolCase(BlockCase):
    """A convolution and the largest values of windows over it."""

    op: ClassVar[str] = "conv_max_pool"

    groups: int = 1
    pool: tuple[int, int, int, int] = (3, 2, 1, 1)  # window, stride, padding, dilation
    ceil_mode: bool = False
    acts: tuple[str, ...] = ("relu",)

    def stages(self) -> list[tuple[str, Shape, int, bool]]:
        return [("conv", (self.filters, self.channels // self.groups, *self.kernel), self.groups, True)]

    @property
    def problem_string(self) -> str:
        marks = "pool" + "_".join(map(str, self.pool)) + ("ceil" if self.ceil_mode else "")
        return f"{super().problem_string}+{marks}" + (f"+g{self.groups}" if self.groups > 1 else "")

    @property
    def out_shape(self) -> Shape:
        size = (ref.pooled_size(extent, *self.pool, self.ceil_mode) for extent in self.inner_size)
        return (self.batch, self.filters, *size)

    def _rest(self) -> tuple[Any, ...]:
        return (*([n, n] for n in self.pool), self.ceil_mode)

    def torch(self, inputs: Inputs) -> Results:
        (y,) = super().torch(inputs)
        return (torch_f.max_pool2d(y, *self.pool, self.ceil_mode),)
