"""Calls whose weights the kernels want packed, and what the cache did meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

from fastconv import functional
from fastconv.functional import cache


class Counter:
    """What the cache did since this was made."""

    def __init__(self) -> None:
        self.before = cache.stats()

    def __getattr__(self, name: str) -> int:
        return cache.stats()[name] - self.before[name]


# Weights large enough that the kernels want them packed, a call of ours on them, and torch's.
Form = tuple[tuple[int, ...], tuple[int, ...], Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
FORMS: dict[str, Form] = {
    "conv2d": (
        (1, 32, 9, 9),
        (48, 32, 3, 3),
        lambda x, w: functional.conv2d(x, w, padding=1),
        lambda x, w: torch_f.conv2d(x, w, padding=1),
    ),
    "pointwise": ((1, 32, 9, 9), (48, 32, 1, 1), functional.conv2d, torch_f.conv2d),
    "upsample_conv2d": (
        (1, 32, 5, 5),
        (48, 32, 3, 3),
        lambda x, w: functional.upsample_conv2d(x, w, padding=1),
        lambda x, w: torch_f.conv2d(torch_f.interpolate(x, scale_factor=2), w, padding=1),
    ),
    "conv_transpose2d": (
        (1, 32, 5, 5),
        (32, 48, 3, 3),
        lambda x, w: functional.conv_transpose2d(x, w, stride=2),
        lambda x, w: torch_f.conv_transpose2d(x, w, stride=2),
    ),
    "linear": ((32, 64), (48, 64), functional.linear, torch_f.linear),
    "gemm": ((32, 64), (64, 48), functional.gemm, torch.mm),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def operands(form: Form) -> tuple[Tensor, Tensor]:
    return torch.randn(form[0]), torch.randn(form[1])


def agree(form: Form, x: Tensor, w: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(form[2](x, w), form[3](x, w), rtol=1e-4, atol=1e-4)
