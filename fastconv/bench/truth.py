"""The float64 result that every benchmarked output is held to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastconv.bench.operations import Operands, Workload, torch_call

# Relative to the largest |output|: what a few roundings of the result itself may cost beyond torch's own error.
_SLACK = {"float64": 1e-13, "float32": 4e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


@dataclass(frozen=True)
class Truth:
    """The float64 result and how far an output may be from it: twice torch's error in the same dtype, plus a slack."""

    reference: torch.Tensor
    tolerance: float
    torch_error: float

    @classmethod
    def of(cls, workload: Workload, operands: Operands) -> Truth:
        """Computes the truth from the operands as rounded to their dtype."""
        reference = torch_call(workload, operands.map(lambda t: t.double()))()
        torch_error = max_error(torch_call(workload, operands)(), reference)
        scale = float(reference.abs().max()) if reference.numel() else 0.0
        return cls(reference, 2 * torch_error + _SLACK[workload.dtype] * scale, torch_error)


def max_error(y: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ or a NaN appears."""
    if y.shape != reference.shape:
        return float("inf")
    if not y.numel():
        return 0.0
    difference = float((y.double() - reference).abs().max())
    return difference if difference == difference else float("inf")
