"""Rounding does not grow with the length of a sum: against float64 the mean error stays within twice torch's own,
without the absolute tolerance that the verification allows."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastconv
from fastconv import functional

Function = Callable[..., Tensor]


def mean_error(function: Function, *inputs: Tensor, truth: Tensor) -> float:
    return float((function(*inputs).double() - truth).abs().mean())


def gradient(function: Function, index: int) -> Function:
    """d(sum(function(x, w) * dy)) by x or w."""

    def run(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        leaves = [x.detach().requires_grad_(), w.detach().requires_grad_()]
        function(*leaves).backward(dy)
        gradient = leaves[index].grad
        assert gradient is not None
        return gradient

    return run


def padded(conv: Function) -> Function:
    return lambda x, w: conv(x, w, padding=1)


# Products in a sum, from 576 to 25,088: one running sum would be up to 8 times less exact than torch.
CONVS = {"64 channels": (1, 64, 28), "256 channels": (2, 256, 14), "512 channels": (1, 512, 7)}
PRODUCTS = {"one row": (1, 4096, 300), "few rows": (8, 25088, 64), "square": (512, 512, 512), "deep": (64, 4096, 128)}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("wanted", ["y", "dx", "dw"])
def test_convolution(case: str, wanted: str) -> None:
    n, c, size = CONVS[case]
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(n, c, size, size, generator=generator) for _ in range(2))
    w = torch.randn(c, c, 3, 3, generator=generator)
    ours, theirs = padded(functional.conv2d), padded(F.conv2d)
    inputs = [x, w]
    if wanted != "y":
        ours, theirs = (gradient(f, ("dx", "dw").index(wanted)) for f in (ours, theirs))
        inputs.append(dy)
    truth = theirs(*(t.double() for t in inputs))
    with fastconv.allow_winograd(False):
        assert mean_error(ours, *inputs, truth=truth) <= 2 * mean_error(theirs, *inputs, truth=truth)
    # docs/numerics.md: five to ten times torch's, at any number of channels
    assert mean_error(ours, *inputs, truth=truth) <= 10 * mean_error(theirs, *inputs, truth=truth)


@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize("transposed", [False, True])
def test_product(case: str, transposed: bool) -> None:
    m, k, n = PRODUCTS[case]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    truth = a.double() @ b.double()
    stored = b.T.contiguous() if transposed else b

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return functional.gemm(a, b, transpose_b=transposed)

    assert mean_error(ours, a, stored, truth=truth) <= 2 * mean_error(torch.matmul, a, b, truth=truth)
