"""Which algorithm conv2d takes on the CPU, where that decides how its weights are packed; and the switch for Winograd.

The compiled table chooses (csrc/cpu/conv2d.cpp), from the extents of one image: never from the batch or the number of
threads, so that an image has the same bits alone and in a batch. Where the user has a table of measured times in force
(tuning.py) that comes first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from fastconv import _C, tuning

# The algorithms that read filters in a form of their own; all others of conv2d share one.
_WINOGRAD = ("winograd_2x2", "winograd_4x4")
TRANSFORMED = (*_WINOGRAD, "amx", "avx512_bf16")
# Reads the filters as they are, and none that are packed.
UNPACKED = "fft"
# From so many taps on it may be the one.
_LARGE = 81
epoch = _C.choice_epoch
_DTYPES = {
    dtype: str(dtype).removeprefix("torch.") for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


def conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algo: str = "",
) -> str:
    """`algo` itself, or one of TRANSFORMED or UNPACKED where the table takes that for a call with packed weights.

    Args:
        padding: four values.
        algo: "" or "winograd", which leave something to choose.
    """
    shape = weight.shape
    if tuning.in_use():
        last = is_channels_last(x)
        return _chosen(epoch(), x.shape, shape, stride, padding, dilation, groups, x.dtype, last, algo)
    some = (shape[3] == 3 and shape[2] == 3) or shape[2] * shape[3] >= _LARGE
    if not some and x.dtype is not torch.bfloat16:
        return algo
    return _chosen(epoch(), x.shape, shape, stride, padding, dilation, groups, x.dtype, True, algo)


def is_channels_last(x: Tensor) -> bool:
    """Whether measurements of NHWC are those of x: an image of one channel, or one pixel, is both."""
    return x.is_contiguous(memory_format=torch.channels_last)


def layout(x: Tensor) -> bool:
    """What a choice depends on beside x's shape: its layout, where measured times decide."""
    return tuning.in_use() and is_channels_last(x)


def can_pack(algo: str, weight: Tensor) -> bool:
    """Whether there is a packed form of the weight for `algo`; the operator says why where there is none."""
    return algo not in _WINOGRAD or (weight.shape[2:] == (3, 3) and weight.dtype is not torch.float64)


@functools.lru_cache(maxsize=4096)
def _chosen(
    _: int,
    x: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    dtype: Any,
    last: bool,
    algo: str,
) -> str:
    try:
        chosen = _C.choose_conv2d(x, weight, stride, padding, dilation, groups, _DTYPES[dtype], last, algo)
    except (ValueError, TypeError, KeyError):
        return algo  # the call itself finds the words
    return chosen if chosen in TRANSFORMED or chosen == UNPACKED else algo


class allow_winograd:
    """Whether Winograd's algorithms may be taken unasked: ``fastconv.allow_winograd(False)``.

    They multiply up to four times less and round differently: see docs/numerics.md. For the whole process, until the
    next call; or for a block: ``with fastconv.allow_winograd(False): ...``. ``algo="winograd_4x4"`` works either way.
    At the start it is allowed, unless the environment says FASTCONV_WINOGRAD=0.
    """

    def __init__(self, allowed: bool) -> None:
        if not isinstance(allowed, bool):
            raise TypeError(f"allow_winograd(): argument 'allowed' must be bool, not {type(allowed).__name__}")
        self._before = _C.winograd_allowed()
        _C.allow_winograd(allowed)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _C.allow_winograd(self._before)
