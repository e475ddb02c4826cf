"""Results lie in memory as torch's do, whatever the operands' layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from closeness import DTYPES, close, last
from torch import Tensor

from fastconv import functional

IMAGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "conv2d": lambda f, x: f.conv2d(x, torch.ones(8, 4, 3, 3), padding=1),
    "conv2d_1x1": lambda f, x: f.conv2d(x, torch.ones(8, 4, 1, 1)),
    "conv2d_depthwise": lambda f, x: f.conv2d(x, torch.ones(4, 1, 3, 3), padding=1, groups=4),
    "conv_transpose2d": lambda f, x: f.conv_transpose2d(x, torch.ones(4, 8, 3, 3), stride=2),
    "max_pool2d": lambda f, x: f.max_pool2d(x, 3, 2, 1),
    "max_pool2d_indices": lambda f, x: f.max_pool2d(x, (2, 1), return_indices=True),
    "avg_pool2d": lambda f, x: f.avg_pool2d(x, 2, padding=1),
    "adaptive_avg_pool2d": lambda f, x: f.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_avg_pool2d_1": lambda f, x: f.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda f, x: f.adaptive_max_pool2d(x, (3, 2)),
    "relu": lambda f, x: f.relu(x),
    "silu": lambda f, x: f.silu(x),
    "prelu": lambda f, x: f.prelu(x, torch.full((1,), 0.2)),
    "softmax": lambda f, x: f.softmax(x, 1),
}
LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "nchw": lambda: torch.randn(2, 4, 6, 5),
    "channels_last": lambda: last(torch.randn(2, 4, 6, 5)),
    "one_image": lambda: last(torch.randn(1, 4, 6, 5)),
    "one_pixel": lambda: last(torch.randn(2, 4, 6, 1))[:, :, :, :1],
    "sliced": lambda: torch.randn(4, 4, 6, 10)[::2, :, :, ::2],
    "sliced_channels_last": lambda: last(torch.randn(2, 8, 6, 5))[:, :4],
    "permuted": lambda: torch.randn(5, 6, 4, 2).permute(3, 2, 1, 0),
    "expanded": lambda: torch.randn(1, 4, 6, 5).expand(2, 4, 6, 5),
    "unbatched": lambda: torch.randn(4, 6, 5),
    "unbatched_permuted": lambda: torch.randn(6, 5, 4).permute(2, 0, 1),
    "no_images": lambda: torch.randn(0, 4, 6, 5),
}


def layout(y: Tensor) -> list[int]:
    """The strides of axes with more than one entry: the others say nothing."""
    return [stride for size, stride in zip(y.shape, y.stride(), strict=True) if size > 1] if y.numel() else []


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("image", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("call", IMAGES.values(), ids=IMAGES)
def test_results_lie_in_memory_as_torchs(call: Any, image: Any, grad: bool) -> None:
    x = image()
    ours, theirs = (call(f, x.detach().requires_grad_(grad)) for f in (functional, torch_f))
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for y, other in pairs:
        assert y.shape == other.shape and y.dtype == other.dtype
        torch.testing.assert_close(y, other, rtol=1e-4, atol=1e-4)
        assert layout(y) == layout(other)


@pytest.mark.parametrize("weight_last", [False, True], ids=["kcrs", "krsc"])
@pytest.mark.parametrize("x_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv2d_is_channels_last_if_either_operand_is(dtype: torch.dtype, x_last: bool, weight_last: bool) -> None:
    x, w = torch.randn(2, 4, 6, 5, dtype=dtype), torch.randn(8, 4, 3, 3, dtype=dtype)
    x, w = (last(x) if x_last else x), (last(w) if weight_last else w)
    y, other = functional.conv2d(x, w), torch_f.conv2d(x, w)
    close(y, torch_f.conv2d(x.double(), w.double()))
    assert y.stride() == other.stride()
