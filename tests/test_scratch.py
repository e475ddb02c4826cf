"""No call takes more scratch than a mebibyte a thread, packed weights apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from closeness import last

from fastconv import functional, introspection

MIB = 1 << 20
SCRATCH: dict[str, Callable[[], Any]] = {
    "3x3": lambda: functional.conv2d(torch.randn(2, 64, 56, 56), torch.randn(64, 64, 3, 3), padding=1),
    "3x3 channels_last": lambda: functional.conv2d(last(torch.randn(2, 64, 56, 56)), torch.randn(64, 64, 3, 3)),
    "stem": lambda: functional.conv2d(torch.randn(1, 3, 112, 112), torch.randn(64, 3, 7, 7), stride=2, padding=3),
    "pointwise": lambda: functional.conv2d(torch.randn(1, 256, 56, 56), torch.randn(64, 256, 1, 1)),
    "depthwise": lambda: functional.conv2d(torch.randn(1, 96, 112, 112), torch.randn(96, 1, 3, 3), groups=96),
    "grouped": lambda: functional.conv2d(torch.randn(1, 64, 56, 56), torch.randn(64, 8, 3, 3), groups=8, padding=1),
    "pooling": lambda: functional.max_pool2d(torch.randn(1, 64, 112, 112), 3, 2, 1),
    "upsample": lambda: functional.upsample_conv2d(torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3), padding=1),
    "transposed": lambda: functional.conv_transpose2d(torch.randn(1, 64, 28, 28), torch.randn(64, 64, 4, 4), stride=2),
    "gemm": lambda: functional.gemm(torch.randn(512, 512), torch.randn(512, 512)),
    "gemm transposed": lambda: functional.gemm(torch.randn(512, 512), torch.randn(512, 512), transpose_a=True),
    "linear": lambda: functional.linear(torch.randn(64, 1280), torch.randn(1000, 1280)),
    "softmax": lambda: functional.softmax(torch.randn(64, 10000), 1),
    "half": lambda: functional.conv2d(
        torch.randn(1, 64, 56, 56).bfloat16(), torch.randn(64, 64, 3, 3).bfloat16(), padding=1
    ),
}


@pytest.mark.parametrize("call", SCRATCH.values(), ids=SCRATCH)
def test_scratch_stays_under_one_mebibyte_a_thread(call: Callable[[], Any]) -> None:
    introspection.reset_peak_workspace()
    with torch.no_grad():
        call()
    assert introspection.peak_workspace_bytes() <= torch.get_num_threads() * MIB


@pytest.mark.parametrize("form", ["nchw", "channels_last"])
def test_scratch_of_gradients(form: str) -> None:
    """Weights are packed into scratch there: one copy of them is allowed on top."""
    w = torch.randn(64, 64, 3, 3, requires_grad=True)
    x = torch.randn(2, 64, 56, 56)
    x = (last(x) if form == "channels_last" else x).requires_grad_()
    y = functional.conv2d(x, w, padding=1)
    introspection.reset_peak_workspace()
    y.sum().backward()
    assert introspection.peak_workspace_bytes() <= torch.get_num_threads() * MIB + 2 * w.numel() * w.element_size()
