"""Cases of max and average pooling, forwards and backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fastconv import reference as ref
from fastconv.bench.problem import WindowProblem

from .case import (
    Inputs,
    Truth,
    array,
)
from .image_case import ImageCase


@dataclass(frozen=True, kw_only=True)
class PoolCase(ImageCase):
    """max_pool2d with indices, or avg_pool2d."""

    op: ClassVar[str] = "max_pool2d"

    problem: WindowProblem
    ceil_mode: bool = False

    @classmethod
    def parse(cls, text: str, **options: Any) -> PoolCase:
        """A case from mb1ic64ih112kh3sh2ph1, and any of the other fields by name."""
        return cls(problem=WindowProblem.parse(text, cls.op), **options)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.problem.x_shape

    @property
    def problem_string(self) -> str:
        return str(self.problem) + ("+ceil" if self.ceil_mode else "")

    @property
    def exact(self) -> bool:
        return not self.backward  # a maximum is chosen, not computed

    def flops(self) -> int:
        return math.prod(self.out_shape) * math.prod(self.problem.kernel)

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        p = self.problem
        return library.max_pool2d(x, p.kernel, p.stride, p.padding, p.dilation, self.ceil_mode, True)

    def reference(self, inputs: Inputs) -> Truth:
        p, x = self.problem, array(inputs["x"])
        y, index = ref.max_pool2d(x, p.kernel, p.stride, p.padding, p.dilation, self.ceil_mode)
        return (ref.max_pool2d_backward(array(inputs["dy"]), index, x.shape),) if self.backward else (y, index)


@dataclass(frozen=True, kw_only=True)
class AvgPoolCase(PoolCase):
    """avg_pool2d."""

    op: ClassVar[str] = "avg_pool2d"

    count_include_pad: bool = True
    divisor_override: int | None = None

    @property
    def problem_string(self) -> str:
        marks = "" if self.count_include_pad else "+nopad"
        return super().problem_string + marks + (f"+div{self.divisor_override}" if self.divisor_override else "")

    @property
    def exact(self) -> bool:
        return False

    def _arguments(self) -> tuple[Any, ...]:
        p = self.problem
        return p.kernel, p.stride, p.padding, self.ceil_mode, self.count_include_pad, self.divisor_override

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        return library.avg_pool2d(x, *self._arguments())

    def reference(self, inputs: Inputs) -> Truth:
        x = array(inputs["x"])
        if self.backward:
            return (ref.avg_pool2d_backward(array(inputs["dy"]), x.shape, *self._arguments()),)
        return (ref.avg_pool2d(x, *self._arguments()),)
