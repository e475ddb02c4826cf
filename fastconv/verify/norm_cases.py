"""Cases of training-mode BatchNorm with residual and activation, and of its statistics."""

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
    in_layout,
    make_tensor,
    operators,
    present,
    torch_activation,
)
from .shape_cases import ShapeCase

_EPS = 1e-3
_PIXELS = (0, 2, 3)


@dataclass(frozen=True, kw_only=True)
class BatchNormStatsCase(ShapeCase):
    """Mean and variance of every channel; `offset` is added to the values, as a mean to take off again."""

    op: ClassVar[str] = "batch_norm_stats"

    offset: float = 0.0

    @property
    def problem_string(self) -> str:
        return super().problem_string + (f"+mean{self.offset:g}" if self.offset else "")

    @property
    def exact(self) -> bool:
        return False

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.shape[1],)

    def flops(self) -> int:
        return 4 * math.prod(self.shape)

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        inputs = super().make_inputs(dtype, layout, seed)
        if self.offset:
            inputs["x"] = present(inputs["x"]) + self.offset
        return inputs

    def reference(self, inputs: Inputs) -> Truth:
        return ref.batch_norm_stats(array(inputs["x"]))

    def torch(self, inputs: Inputs) -> Results:
        x = present(inputs["x"])
        wide = x.double() if x.dtype == torch.float64 else x.float()
        var, mean = torch.var_mean(wide, _PIXELS, correction=0)
        return mean, var

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        return tuple(operators(backend).batch_norm_stats(present(inputs["x"]), backend))


@dataclass(frozen=True, kw_only=True)
class BatchNormCase(ShapeCase):
    """y, or (dx, dweight, dbias, dresidual, dalpha) as far as there are such operands."""

    op: ClassVar[str] = "batch_norm_act"

    act: str = "identity"
    alpha: str = "one"
    residual: bool = False
    affine: bool = True
    training: bool = True

    @property
    def problem_string(self) -> str:
        act = f"prelu_{self.alpha}" if self.act == "prelu" else self.act
        marks = {"+residual": self.residual, "+plain": not self.affine, "+running": not self.training}
        return f"{super().problem_string}+{act}" + "".join(mark for mark, there in marks.items() if there)

    @property
    def exact(self) -> bool:
        return False

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.shape

    def flops(self) -> int:
        return 4 * math.prod(self.shape)

    @property
    def _param(self) -> float:
        return ACT_PARAM.get(self.act, 0.0)

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        inputs = super().make_inputs(dtype, layout, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        channels = (self.shape[1],)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        x = present(inputs["x"]).to(wide)
        if self.training and x.numel():
            # Rounded once here: an error in the statistics is BatchNormStatsCase's affair.
            inputs["var"], inputs["mean"] = torch.var_mean(x, _PIXELS, correction=0)
        else:
            inputs["mean"] = make_tensor(channels, wide, generator)
            inputs["var"] = make_tensor(channels, wide, generator).square() + 0.5
        if self.affine:
            inputs["weight"] = make_tensor(channels, wide, generator)
            inputs["bias"] = make_tensor(channels, wide, generator)
        if self.residual:
            inputs["residual"] = in_layout(make_tensor(self.shape, dtype, generator), layout)
        if self.act == "prelu":
            shape = alpha_shape(self.alpha, self.shape)
            inputs["alpha"] = torch.randint(-3, 4, shape, generator=generator).to(dtype) / 4
        return inputs

    def _vectors(self, inputs: Inputs) -> tuple[Any, Any, Any, Any]:
        return array(inputs["mean"]), array(inputs["var"]), f64(inputs.get("weight")), f64(inputs.get("bias"))

    def reference(self, inputs: Inputs) -> Truth:
        x, residual, alpha = array(inputs["x"]), f64(inputs.get("residual")), f64(inputs.get("alpha"))
        vectors = self._vectors(inputs)
        if not self.backward:
            return (ref.batch_norm_act(x, *vectors, _EPS, residual, self.act, self._param, alpha),)
        dy = array(inputs["dy"])
        gradients = ref.batch_norm_act_backward(
            dy, x, *vectors, self.training, _EPS, residual, self.act, self._param, alpha
        )
        kept = [gradients[0], *(gradients[1:3] if self.affine else ()), *(gradients[3:] if self.residual else ())]
        if alpha is not None:
            before = ref.batch_norm_act(x, *vectors, _EPS, residual)
            kept.append(ref.prelu_alpha_grad(dy, before, alpha.shape))
        return tuple(kept)

    def _results(self, forward: Any, inputs: Inputs) -> Results:
        """forward(x, weight, bias, residual, alpha), or its gradients."""
        operands = [inputs.get(name) for name in ("x", "weight", "bias", "residual", "alpha")]
        if not self.backward:
            return (forward(*operands),)
        leaves = [None if t is None else t.detach().requires_grad_() for t in operands]
        with torch.enable_grad():
            y = forward(*leaves)
        return torch.autograd.grad(y, [t for t in leaves if t is not None], present(inputs["dy"]))

    def torch(self, inputs: Inputs) -> Results:
        def forward(x: Any, weight: Any, bias: Any, residual: Any, alpha: Any) -> torch.Tensor:
            running = (None, None) if self.training else (inputs["mean"], inputs["var"])
            y = torch_f.batch_norm(x, *running, weight, bias, self.training, 0.0, _EPS)
            return torch_activation(y if residual is None else y + residual, self.act, alpha)

        return self._results(forward, inputs)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        operator, mean, var = operators(backend).batch_norm_act, inputs["mean"], inputs["var"]
        return self._results(
            lambda x, weight, bias, residual, alpha: operator(
                x, mean, var, weight, bias, self.training, _EPS, residual, self.act, self._param, alpha, backend
            ),
            inputs,
        )
