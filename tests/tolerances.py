"""The tolerances live in the package, where `fastconv verify` finds them; the tests reach them here."""

from fastconv.verify.tolerances import ATOL, Comparison, compare, compare_all

__all__ = ["ATOL", "Comparison", "compare", "compare_all"]
