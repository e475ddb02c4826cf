"""Algorithms that round float32 operands to tf32 are judged on inputs that are tf32 values already.

Their products are then exact, and the tolerance is everybody's: no allowance for the rounding, in which a wrong element
could hide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .case import Inputs


def rounds_to_tf32(algorithm: str, dtype: torch.dtype) -> bool:
    """Whether this table row multiplies in tf32, by its name."""
    return dtype == torch.float32 and "tf32" in algorithm


def round_to_tf32(inputs: Inputs) -> Inputs:
    """`inputs`, their storages rounded in place to ten bits of mantissa, ties away from zero; NaN and Inf stay."""
    for tensor in {t.untyped_storage().data_ptr(): t for t in inputs.values() if t is not None}.values():
        if tensor.dtype == torch.float32:
            values = torch.empty(0).set_(tensor.untyped_storage())
            rounded = ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
            values.copy_(torch.where(values.isfinite(), rounded, values))
    return inputs


@contextmanager
def in_full_precision() -> Iterator[None]:
    """Lets nothing but the rows that are asked for by name multiply float32 in TF32: torch allows it in convolutions
    unless it is told otherwise, and the package's choice follows torch."""
    cudnn: Any = torch.backends.cudnn
    owners = (torch.backends.cuda.matmul, cudnn.conv)
    before = [owner.fp32_precision for owner in owners]
    for owner in owners:
        owner.fp32_precision = "ieee"
    try:
        yield
    finally:
        for owner, setting in zip(owners, before, strict=True):
            owner.fp32_precision = setting
