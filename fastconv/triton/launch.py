"""From a tensor's device to a running kernel: compiled for its GPU, or Triton's interpreter for the CPU."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The interpreter keeps the program's place in one global object.
_interpreter = threading.RLock()


def is_interpreted(t: Tensor) -> bool:
    """Whether kernels on this tensor run in the interpreter."""
    return not t.is_cuda


def accumulate_type(dtype: torch.dtype) -> Any:
    """The type that sums are taken in."""
    import triton.language as tl

    return tl.float64 if dtype is torch.float64 else tl.float32


def launch(file: str, name: str, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Runs kernel `name` of kernels/<file>.py over `grid` on `like`'s device, in its current stream."""
    if 0 in grid:
        return
    package = "interpreted" if is_interpreted(like) else "kernels"
    kernel = getattr(importlib.import_module(f"fastconv.triton.{package}.{file}"), name)
    with _interpreting() if is_interpreted(like) else torch.cuda.device(like.device):
        kernel[grid](*arguments, **constants)


@contextmanager
def _interpreting() -> Iterator[None]:
    # NumPy warns where a GPU makes an Inf in silence.
    with _interpreter, _language_restored(), np.errstate(all="ignore"):
        yield


@contextmanager
def _language_restored() -> Iterator[None]:
    """Puts triton.language back as it was: before 3.6 the interpreter leaves its own functions in it, and nothing
    could be compiled for a GPU afterwards."""
    import triton.language as tl

    places = (tl, tl.core, tl.math, tl.core.tensor, tl.core.dtype)
    before = [(place, dict(vars(place))) for place in places]
    try:
        yield
    finally:
        for place, members in before:
            for name in [name for name in vars(place) if name not in members]:
                delattr(place, name)
            for name, member in members.items():
                if vars(place).get(name) is not member:
                    setattr(place, name, member)


def is_wide(*tensors: Tensor | None, reach: int = 0) -> bool:
    """Whether an offset into one of these, or a coordinate of `reach`, may pass 31 bits; a tile may go a little past
    the end."""
    margin = (1 << 31) - (1 << 16)
    return reach >= margin or any(_span(t) >= margin for t in tensors if t is not None)


def _span(t: Tensor) -> int:
    return max(t.numel(), sum((size - 1) * abs(step) for size, step in zip(t.shape, t.stride(), strict=True)))


def precision(dtype: torch.dtype, *, convolution: bool) -> str:
    """How `dot` multiplies: float32 exactly, unless torch allows TF32 for the like of it; float64 without `dot`."""
    if dtype is torch.float64:
        return "fma"
    if dtype is not torch.float32:
        return "ieee"
    try:
        allowed = torch.backends.cudnn.allow_tf32 if convolution else torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch refuses to say where its older and newer settings have been mixed
        allowed = False
    return "tf32" if allowed else "ieee"
