"""From a tensor's device to a running kernel: compiled for its GPU, or Triton's interpreter for the CPU."""

from __future__ import annotations

import dataclasses
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastconv import _C

# The interpreter keeps the program's place in one global object.
_interpreter = threading.RLock()
# a * b + c rounded once, as compilers for C++ have it; Triton 3.10 changes the default.
COMPILER_OPTIONS = {"enable_fp_fusion": True}
# Takes what would be launched on a GPU, where one only wants to know or to compile it (buildtools/triton_check.py).
recorder: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] | None = None


def is_interpreted(t: Tensor) -> bool:
    """Whether kernels on this tensor run in the interpreter."""
    return not t.is_cuda and recorder is None


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
    if recorder is not None:
        recorder(kernel, arguments, constants)
    elif is_interpreted(like):
        with _interpreting():
            kernel[grid](*arguments, **constants)
    else:
        with torch.cuda.device(like.device):
            kernel[grid](*arguments, **constants, **COMPILER_OPTIONS)


@contextmanager
def _interpreting() -> Iterator[None]:
    # NumPy warns where a GPU makes an Inf in silence.
    with _interpreter, _language_restored(), _overflow_unchecked(), np.errstate(all="ignore"):
        yield


@contextmanager
def _overflow_unchecked() -> Iterator[None]:
    """Without the check of every integer operation in 64 bits, which takes two thirds of the interpreter's time: WIDE
    settles where 32 bits are enough."""
    from triton.runtime.interpreter import interpreter_builder

    before = interpreter_builder.options
    if hasattr(before, "sanitize_overflow"):
        interpreter_builder.options = dataclasses.replace(before, sanitize_overflow=False)
    try:
        yield
    finally:
        interpreter_builder.options = before


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


def precision(like: Tensor, *, convolution: bool) -> str:
    """How `dot` multiplies: float32 exactly, unless torch allows TF32 on a GPU for the like of it; float64 as sums."""
    if like.dtype is torch.float64:
        return "fma"
    if like.dtype is torch.float32 and not is_interpreted(like) and _C.tf32_allowed(convolution):
        return "tf32"
    return "ieee"
