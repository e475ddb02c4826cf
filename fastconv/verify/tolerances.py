"""When a kernel's result counts as right: the one place that knows the tolerances.

Elementwise,  |y - ref64| <= 2 * max|torch_same_dtype - ref64| + atol(dtype) + u(dtype) * |ref64|.

The first term asks for no more error than torch makes on the same problem in the same dtype, twice; the second covers
problems so small that torch happens to be exact; the last is the rounding of the result itself (u is half the spacing
of the dtype at 1), which no kernel can avoid. NaN and Inf must stand where the reference has them, and an output of
zeros never passes for a reference that is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

ATOL = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-4, torch.bfloat16: 4e-3}


@dataclass(frozen=True)
class Comparison:
    """The verdict on one tensor; true where it passed.

    max_error and torch_error are the largest absolute errors over the finite elements, ours and torch's; worst is the
    index of the element furthest beyond (or nearest to) its bound, and tolerance that element's bound.
    """

    passed: bool
    max_error: float = 0.0
    torch_error: float = 0.0
    tolerance: float = 0.0
    worst: tuple[int, ...] = ()
    message: str = "ok"

    def __bool__(self) -> bool:
        return self.passed


def compare(
    actual: torch.Tensor,
    ref64: np.ndarray,
    torch_same: torch.Tensor | None = None,
    *,
    exact: bool = False,
    factor: float = 2.0,
) -> Comparison:
    """Judges `actual` by the float64 reference and by torch's result in the same dtype.

    Args:
        actual: the kernel's output, any device and layout.
        ref64: the reference's, float64 (or int64 for indices, compared exactly).
        torch_same: torch's output in the same dtype; None counts as exact.
        exact: ask for the reference rounded to the dtype, bit for bit apart from the sign of zero.
        factor: how many times torch's error is allowed; a transforming algorithm such as Winograd may ask for more.
    """
    if tuple(actual.shape) != ref64.shape:
        return Comparison(False, message=f"expected shape {ref64.shape}, but got {tuple(actual.shape)}")
    if torch_same is not None and actual.dtype != torch_same.dtype:
        return Comparison(False, message=f"expected dtype {torch_same.dtype}, but got {actual.dtype}")
    if not actual.numel():
        return Comparison(True)
    dtype = actual.dtype
    if not dtype.is_floating_point:
        return _equal(actual.detach().cpu().numpy(), ref64)
    y = actual.detach().cpu().double().numpy()
    rounded = torch.from_numpy(np.ascontiguousarray(ref64)).to(dtype).double().numpy()
    mismatch = _nonfinite_mismatch(y, rounded)
    if mismatch is not None:
        return mismatch
    if exact:
        return _equal(y, rounded)
    return _within(y, ref64, rounded, torch_same, dtype, factor)


def compare_all(
    actual: Sequence[torch.Tensor],
    ref64: Sequence[np.ndarray],
    torch_same: Sequence[torch.Tensor],
    *,
    exact: bool = False,
    factor: float = 2.0,
) -> Comparison:
    """`compare` over all results of a case: the first that failed, or else the one with the largest error."""
    if len(actual) != len(ref64):
        return Comparison(False, message=f"expected {len(ref64)} results, but got {len(actual)}")
    verdicts = [
        compare(y, truth, same, exact=exact, factor=factor)
        for y, truth, same in zip(actual, ref64, torch_same, strict=True)
    ]
    failed = [verdict for verdict in verdicts if not verdict]
    return failed[0] if failed else max(verdicts, key=lambda verdict: verdict.max_error)


def _at(flat: np.intp | int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), tuple(shape)))


def _nonfinite_mismatch(y: np.ndarray, expected: np.ndarray) -> Comparison | None:
    """A failure if NaN, Inf and -Inf are not where the reference, rounded to the dtype, has them."""
    both = np.isfinite(y) & np.isfinite(expected)
    same = both | (np.isnan(y) & np.isnan(expected)) | (y == expected)
    if same.all():
        return None
    where = _at(np.argmin(same), y.shape)
    count = int((~same).sum())
    text = f"{count} of {y.size} elements differ in NaN or Inf, first at {where}: expected {expected[where]}"
    return Comparison(False, float("inf"), worst=where, message=f"{text}, but got {y[where]}")


def _equal(y: np.ndarray, expected: np.ndarray) -> Comparison:
    """Exact equality; NaN equals NaN, 0 equals -0."""
    with np.errstate(invalid="ignore"):
        same = (y == expected) | (np.isnan(y) & np.isnan(expected))
        error = np.where(same, 0.0, np.abs(y.astype(np.float64) - expected))
    if same.all():
        return Comparison(True)
    where = _at(np.argmax(error), y.shape)
    text = f"{int((~same).sum())} of {y.size} elements are not exact, worst at {where}"
    message = f"{text}: expected {expected[where]}, but got {y[where]}"
    return Comparison(False, float(error.max()), worst=where, message=message)


def _within(
    y: np.ndarray,
    ref64: np.ndarray,
    rounded: np.ndarray,
    torch_same: torch.Tensor | None,
    dtype: torch.dtype,
    factor: float,
) -> Comparison:
    """The elementwise rule at the head of this file, over the finite elements."""
    finite = np.isfinite(rounded) & np.isfinite(ref64)
    truth = np.where(finite, ref64, 0.0)
    error = np.where(finite, np.abs(np.where(finite, y, 0.0) - truth), 0.0)
    torch_error = 0.0
    if torch_same is not None:
        other = torch_same.detach().cpu().double().numpy()
        usable = finite & np.isfinite(other)
        torch_error = float(np.abs(np.where(usable, other, 0.0) - np.where(usable, truth, 0.0)).max())
    bound = factor * torch_error + ATOL[dtype] + torch.finfo(dtype).eps / 2 * np.abs(truth)
    where = _at(np.argmax(error - bound), y.shape)
    verdict = Comparison(True, float(error.max()), torch_error, float(bound[where]), where)
    if (error > bound).any():
        text = f"{int((error > bound).sum())} of {y.size} elements are out of tolerance, worst at {where}"
        text += f": expected {ref64[where]:.9g}, but got {y[where]:.9g} (error {error[where]:.3g}"
        return replace(verdict, passed=False, message=f"{text}, tolerance {bound[where]:.3g})")
    if not y.any() and np.abs(truth).max() > ATOL[dtype]:
        return replace(verdict, passed=False, message="expected values, but got zeros everywhere")
    return verdict
