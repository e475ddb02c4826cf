"""Random arguments, mostly wrong, for functions and operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

# What a refusal may be. An AttributeError or an AssertionError is ours, not the caller's.
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError)

extent = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 9])
parameter = st.sampled_from([-1, 0, 1, 1, 1, 2, 2, 3, 5])
pair_of = st.one_of(parameter, st.tuples(parameter, parameter), st.lists(parameter, max_size=3))
# torch's fold and unfold alone refuse a list of one value; here it is one value, as everywhere else.
window = pair_of.filter(lambda value: not isinstance(value, list) or len(value) != 1)
image = st.one_of(
    st.tuples(extent, extent, extent, extent),
    st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(3, 9), st.integers(3, 9)),
    st.lists(extent, max_size=5).map(tuple),
)
dtypes = st.sampled_from([torch.float32] * 6 + [torch.float64, torch.bfloat16, torch.int64, torch.complex64])
memory = st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"])


def tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, form: str = "contiguous") -> Tensor:
    count = torch.Size(shape).numel()
    x = ((torch.arange(count) * 7919) % 17 - 8).reshape(shape).to(dtype)
    if form == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if form == "sliced" and x.dim():
        return x.repeat_interleave(2, -1)[..., ::2]
    if form == "transposed" and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return x


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error
