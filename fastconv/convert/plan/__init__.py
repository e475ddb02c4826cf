"""Networks as flat lists of kernel calls: one plan for each set of shapes, all activations in one arena."""

from fastconv.convert.plan.cache import Plans
from fastconv.convert.plan.program import PlannedProgram

__all__ = ["PlannedProgram", "Plans"]
