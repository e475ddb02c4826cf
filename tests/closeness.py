"""How close a result must be to torch's in float64, where no reference judges it element by element."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float16: {"rtol": 5e-3, "atol": 2e-2},
    torch.bfloat16: {"rtol": 3e-2, "atol": 1e-1},
}
DTYPES = tuple(TOLERANCE)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), **TOLERANCE[ours.dtype])


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
