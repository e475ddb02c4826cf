"""The base of cases whose operator has one tensor operand, without weights, forwards or backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as torch_f

from .case import (
    Case,
    Inputs,
    Results,
    as_view,
    functional,
    gradient,
    in_layout,
    make_tensor,
    on_backend,
    poison,
    present,
)


@dataclass(frozen=True, kw_only=True)
class ImageCase(Case):
    """An operator of one image x (N, C, H, W) or any `shape`, without weights, forwards or backwards."""

    backward: bool = False

    @property
    def x_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _forward(self, library: Any, x: torch.Tensor) -> Any:
        """The call, which torch.nn.functional and fastconv.functional take alike."""
        raise NotImplementedError

    def _torch_forward(self, x: torch.Tensor) -> Any:
        return self._forward(torch_f, x)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The first result's shape."""
        y = self._torch_forward(torch.zeros(self.x_shape))
        return tuple((y[0] if isinstance(y, tuple) else y).shape)

    @property
    def id(self) -> str:
        return super().id + ("+backward" if self.backward else "")

    def flops(self) -> int:
        return math.prod(self.out_shape)

    def bytes(self, element_size: int) -> int:
        return element_size * (math.prod(self.x_shape) + math.prod(self.out_shape))

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        x = poison(make_tensor(self.x_shape, dtype, generator, self.fill, 2.0), self.fill)
        inputs: Inputs = {"x": as_view(in_layout(x, layout), self.view)}
        if self.backward:
            inputs["dy"] = in_layout(make_tensor(self.out_shape, dtype, generator, self.fill), layout)
        return inputs

    def _results(self, forward: Any, inputs: Inputs) -> Results:
        if self.backward:
            return (gradient(lambda x: first(forward(x)), present(inputs["x"]), present(inputs["dy"])),)
        y = forward(present(inputs["x"]))
        return tuple(y) if isinstance(y, tuple) else (y,)

    def torch(self, inputs: Inputs) -> Results:
        return self._results(self._torch_forward, inputs)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        with on_backend(backend):
            return self._results(lambda x: self._forward(functional(), x), inputs)


def first(y: Any) -> torch.Tensor:
    return y[0] if isinstance(y, tuple) else y
