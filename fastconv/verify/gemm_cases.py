"""Cases of gemm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fastconv import reference as ref
from fastconv.bench.problem import GemmProblem

from .case import (
    ACT_PARAM,
    Case,
    Inputs,
    Results,
    Truth,
    array,
    as_view,
    f64,
    make_tensor,
    operators,
    poison,
    present,
    torch_activation,
)
from .emulator_settings import emulator_settings


@dataclass(frozen=True, kw_only=True)
class GemmCase(Case):
    """act(op(a) @ op(b) + bias + residual)."""

    op: ClassVar[str] = "gemm"

    problem: GemmProblem
    transpose_a: bool = False
    transpose_b: bool = False
    bias: bool = True
    residual: bool = False
    act: str = "identity"
    alpha: str = "one"
    multiprocessors: int = 0  # of the emulated GPU; 0: as many as it has

    @classmethod
    def parse(cls, text: str, **options: Any) -> GemmCase:
        """A case from mMkKnN, or bBmMkKnN with a batch, and any of the other fields by name."""
        return cls(problem=GemmProblem.parse(text), **options)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(M, N) or (B, M, N)."""
        return *self.problem.a_shape[:-1], self.problem.n

    @property
    def problem_string(self) -> str:
        form = ("T" if self.transpose_a else "N") + ("T" if self.transpose_b else "N")
        marks = [str(self.problem) + ("" if form == "NN" else f"+{form}")]
        marks += ["residual"] if self.residual else []
        marks += [] if self.bias else ["nobias"]
        marks += [f"multiprocessors{self.multiprocessors}"] if self.multiprocessors else []
        if self.act != "identity":
            marks.append(f"prelu_{self.alpha}" if self.act == "prelu" else self.act)
        return "+".join(marks)

    def flops(self) -> int:
        return self.problem.flops()

    def bytes(self, element_size: int) -> int:
        extra = math.prod(self.out_shape) * self.residual + self.problem.n * self.bias
        return self.problem.bytes(element_size) + element_size * extra

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        p, generator = self.problem, torch.Generator().manual_seed(seed)
        a = make_tensor(_stored(p.a_shape, self.transpose_a), dtype, generator, self.fill)
        b = make_tensor(_stored(p.b_shape, self.transpose_b), dtype, generator, self.fill, max(1, p.k) ** -0.5)
        inputs: Inputs = {
            "a": as_view(poison(a, self.fill), self.view),
            "b": as_view(b, {"weight": "transposed", "weight_expanded": "expanded"}.get(self.view, "")),
            "bias": make_tensor((p.n,), dtype, generator, self.fill) if self.bias else None,
            "residual": make_tensor(self.out_shape, dtype, generator, self.fill) if self.residual else None,
            "alpha": None,
        }
        if self.act == "prelu":
            shape = (p.n,) if self.alpha == "channel" else self.out_shape if self.alpha == "full" else (1,)
            inputs["alpha"] = torch.randint(-3, 4, shape, generator=generator).to(dtype) / 4
        return inputs

    def _fused(self) -> tuple[str, float]:
        return self.act, ACT_PARAM.get(self.act, 0.0)

    def reference(self, inputs: Inputs) -> Truth:
        i = inputs
        operands = (array(i["a"]), array(i["b"]), f64(i["bias"]), self.transpose_a, self.transpose_b)
        return (ref.gemm(*operands, f64(i["residual"]), *self._fused(), f64(i["alpha"])),)

    def torch(self, inputs: Inputs) -> Results:
        a, b = present(inputs["a"]), present(inputs["b"])
        y = torch.matmul(a.mT if self.transpose_a else a, b.mT if self.transpose_b else b)
        for name in ("bias", "residual"):
            added = inputs[name]
            if added is not None:
                y = y + added
        return (torch_activation(y, self.act, inputs["alpha"], channel_axis=-1),)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        i = inputs
        operands = (i["a"], i["b"], i["bias"], self.transpose_a, self.transpose_b, i["residual"])
        # With few, small products take what large ones do.
        with emulator_settings(multiprocessors=self.multiprocessors):
            return (operators(backend).gemm(*operands, *self._fused(), i["alpha"], algo, backend, None),)


def _stored(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape
