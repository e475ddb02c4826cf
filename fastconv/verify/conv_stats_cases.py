"""Cases of a convolution that gives the statistics of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fastconv import reference as ref

from .case import Case, Inputs, Results, Truth, array, f64, in_layout, make_tensor, operators, present
from .conv_cases import ConvCase

_PIXELS = (0, 2, 3)


@dataclass(frozen=True, kw_only=True)
class ConvStatsCase(ConvCase):
    """A convolution with the mean and the variance of its result, or dx and dw where all three have a gradient."""

    op: ClassVar[str] = "conv2d_stats"

    backward: bool = False

    @property
    def problem_string(self) -> str:
        return super().problem_string + ("+backward" if self.backward else "")

    @property
    def exact(self) -> bool:
        return False

    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        inputs = super().make_inputs(dtype, layout, seed)
        if self.backward:
            generator = torch.Generator().manual_seed(seed + 1)
            wide = torch.promote_types(dtype, torch.float32)
            channels = self.out_shape[1:2]
            inputs["dy"] = in_layout(make_tensor(self.out_shape, dtype, generator), layout)
            inputs["dmean"], inputs["dvar"] = (make_tensor(channels, wide, generator) for _ in range(2))
        return inputs

    def reference(self, inputs: Inputs) -> Truth:
        x, weight, window = array(inputs["x"]), array(inputs["weight"]), self._window()
        y, mean, var = ref.conv2d_stats(x, weight, f64(inputs["bias"]), *window)
        if not self.backward:
            return y, mean, var
        spread, pixels = (1, -1, 1, 1), y.size // y.shape[1]
        dmean, dvar = (array(inputs[name]).reshape(spread) / pixels for name in ("dmean", "dvar"))
        dy = array(inputs["dy"]) + dmean + 2 * dvar * (y - mean.reshape(spread))
        dx = ref.conv2d_input_grad(dy, weight, x.shape, *window)
        return dx, ref.conv2d_weight_grad(dy, x, weight.shape, *window)

    def _results(self, forward: Any, inputs: Inputs) -> Results:
        """forward(x, weight), or its gradients."""
        operands = [present(inputs[name]) for name in ("x", "weight")]
        if not self.backward:
            return tuple(forward(*operands))
        leaves = [t.detach().requires_grad_() for t in operands]
        with torch.enable_grad():
            results = forward(*leaves)
        return torch.autograd.grad(results, leaves, [present(inputs[name]) for name in ("dy", "dmean", "dvar")])

    def torch(self, inputs: Inputs) -> Results:
        def forward(x: torch.Tensor, weight: torch.Tensor) -> Results:
            (y,) = super(ConvStatsCase, self).torch({**inputs, "x": x, "weight": weight})
            var, mean = torch.var_mean(y.to(torch.promote_types(y.dtype, torch.float32)), _PIXELS, correction=0)
            return y, mean, var

        return self._results(forward, inputs)

    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        operator, bias = operators(backend).conv2d_stats, inputs["bias"]
        return self._results(lambda x, weight: operator(x, weight, bias, *self._window(), algo, backend), inputs)


def conv_stats() -> list[Case]:
    shapes = (
        "mb2ic5ih7iw11oc7kh3ph1", "mb1ic16ih14oc16kh3ph1", "mb1ic64ih9oc33kh3ph1", "mb2ic31ih5iw3oc37kh1",
        "g2mb2ic8ih7oc12kh3ph1", "g6mb2ic6ih7oc12kh3ph1", "mb0ic4ih5oc6kh3ph1", "mb2ic3ih23oc24kh3sh2ph1",
        # Whole and ragged groups of 64 pixels, of chunks of 64 filters, and of a block's tiles; one pixel; groups.
        "mb1ic16ih8oc136kh1", "mb3ic24ih19iw17oc72kh3sh2ph1", "mb1ic8ih1oc16kh1", "g2mb1ic128ih6iw5oc48kh3ph1",
    )  # fmt: skip
    cases: list[Case] = [ConvStatsCase.parse(text) for text in shapes]
    # A ring of stages three times round. No integers: torch is exact in y then, but not in a variance of thousands.
    cases.append(ConvStatsCase.parse("mb1ic192ih5iw4oc24kh3ph1"))
    base = shapes[1]
    options: tuple[dict[str, Any], ...] = (
        {"bias": False}, {"fill": "nan"}, {"view": "sliced"}, {"view": "expanded"}, {"view": "transposed"},
        {"view": "offset"}, {"view": "weight"}, {"padding": (1, 2, 0, 1)},
    )  # fmt: skip
    cases += [ConvStatsCase.parse(base, **option) for option in options]
    return cases + [ConvStatsCase.parse(text, backward=True) for text in (*shapes[:2], shapes[4], shapes[9])]
