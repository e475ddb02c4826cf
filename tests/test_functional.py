"""fastconv.functional against torch beyond OpInfo: arguments, linear, gemm, pooling, modes, threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from closeness import DTYPES, close, last
from torch import Tensor

import fastconv
from fastconv import functional

# ---- convolution's arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (4, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)], ids=str)
def test_same_and_valid(kernel: tuple[int, int], dilation: Any) -> None:
    x, w = torch.randn(2, 3, 13, 11), torch.randn(4, 3, *kernel)
    for name in ("same", "valid"):
        # torch warns that an uneven 'same' copies the input; here it does not.
        close(functional.conv2d(x, w, None, 1, name, dilation), torch_f.conv2d(x, w, None, 1, name, dilation))


@pytest.mark.parametrize("sides", [(0, 1, 0, 1), (2, 0, 0, 3), (1, 1, 2, 2), (4, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 4}], ids=str)
def test_padding_of_four_values(sides: tuple[int, ...], options: dict[str, Any]) -> None:
    top, bottom, left, right = sides
    x, w = torch.randn(2, 4, 7, 8), torch.randn(8, 4 // options.get("groups", 1), 3, 3)
    expected = torch_f.conv2d(torch_f.pad(x, (left, right, top, bottom)), w, **options)
    close(functional.conv2d(x, w, padding=sides, **options), expected)
    close(functional.conv2d(x[0], w, padding=list(sides), **options), expected[0])


@pytest.mark.parametrize("value", [2, (2,), (2, 2), [2, 2], torch.Size([2, 2]), torch.tensor(2).numpy()[()]], ids=str)
def test_every_way_to_write_a_pair(value: Any) -> None:
    x, w = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3)
    expected = torch_f.conv2d(x, w, None, 2, 2, 2)
    assert torch.equal(functional.conv2d(x, w, None, value, value, value), functional.conv2d(x, w, None, 2, 2, 2))
    close(functional.conv2d(x, w, stride=value, padding=value, dilation=value), expected)
    close(functional.max_pool2d(x, value, value), torch_f.max_pool2d(x, 2, 2))
    close(functional.im2col(x, value, value), torch_f.unfold(x, 2, stride=2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("images", [(0, 3, 7, 6), (3, 7, 6), (2, 0, 7, 6), (2, 3, 7, 6)], ids=str)
def test_batches_of_any_size_and_dtype(images: tuple[int, ...], dtype: torch.dtype) -> None:
    x, w, b = torch.randn(images, dtype=dtype), torch.randn(5, images[-3], 3, 3, dtype=dtype), torch.randn(5).to(dtype)
    expected = torch_f.conv2d(x.double(), w.double(), b.double(), padding=1)
    y = functional.conv2d(x, w, b, padding=1)
    assert y.dtype == dtype
    close(y, expected)


def test_convtranspose_of_every_output_size_of_a_stride() -> None:
    x, w = torch.randn(1, 3, 4, 4), torch.randn(3, 5, 3, 3)
    for stride, extra in itertools.chain.from_iterable(((s, e) for e in range(s)) for s in (1, 2, 3)):
        args = (None, stride, 1, extra)
        close(functional.conv_transpose2d(x, w, *args), torch_f.conv_transpose2d(x, w, *args))


# ---- linear and gemm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7), (2, 0, 7), (1, 1, 1, 7)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_of_any_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    x, w, b = torch.randn(shape), torch.randn(5, 7), torch.randn(5) if bias else None
    residual = torch.randn(*shape[:-1], 5)
    close(functional.linear(x, w, b), torch_f.linear(x, w, b))
    close(functional.linear(x, w, b, residual=residual, act="relu"), torch_f.relu(torch_f.linear(x, w, b) + residual))


def test_linear_without_features() -> None:
    b = torch.randn(4)
    close(functional.linear(torch.randn(3, 0), torch.randn(4, 0), b), b.expand(3, 4))
    close(functional.linear(torch.randn(3, 0), torch.randn(4, 0)), torch.zeros(3, 4))
    assert functional.linear(torch.randn(3, 5), torch.randn(0, 5)).shape == (3, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (0,)], ids=str)
def test_gemm_of_any_strides(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    for m, k, n in ((1, 1, 1), (5, 7, 9), (17, 33, 20), (4, 0, 3), (0, 4, 3)):
        a, b = torch.randn(*batch, m, k), torch.randn(*batch, k, n)
        expected = a.to(dtype).double() @ b.to(dtype).double()
        forms = (
            (a, b, {}),
            (a.mT.contiguous(), b, {"transpose_a": True}),
            (a, b.mT.contiguous(), {"transpose_b": True}),
            (a.mT.contiguous().mT, b.mT.contiguous().mT, {}),
            (a.repeat_interleave(2, -1)[..., ::2], b.repeat_interleave(2, -2)[..., ::2, :], {}),
        )
        for left, right, turned in forms:
            close(functional.gemm(left.to(dtype), right.to(dtype), **turned), expected)


# ---- pooling ---------------------------------------------------------------------------------------------------------


def test_pooling_of_nan_and_infinities() -> None:
    x = torch.randn(2, 3, 9, 9)
    x[0, 0, 4, 4] = float("nan")
    x[1] = -float("inf")
    for image in (x, last(x)):
        ours = functional.max_pool2d(image, 3, 2, 1, return_indices=True)
        theirs = torch_f.max_pool2d(image, 3, 2, 1, return_indices=True)
        for y, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(y, other, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(functional.avg_pool2d(image, 3), torch_f.avg_pool2d(image, 3), equal_nan=True)


def test_pooling_with_an_empty_stride() -> None:
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(functional.max_pool2d(x, 3, []), torch_f.max_pool2d(x, 3, []))
    close(functional.avg_pool2d(x, 3, []), torch_f.avg_pool2d(x, 3, []))


@pytest.mark.parametrize("size", [0, (0, 3), None, (None, 1), 9], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (3, 5, 6), (0, 3, 5, 6)], ids=str)
def test_adaptive_pooling_to_any_size(shape: tuple[int, ...], size: Any) -> None:
    x = torch.randn(shape)
    # torch takes None for both sizes too, but only as a pair.
    pair = (None, None) if size is None else size
    close(functional.adaptive_avg_pool2d(x, pair), torch_f.adaptive_avg_pool2d(x, pair))
    close(functional.adaptive_max_pool2d(x, pair), torch_f.adaptive_max_pool2d(x, pair))


# ---- modes -----------------------------------------------------------------------------------------------------------

AUTOCAST: dict[str, Callable[[Any], Tensor]] = {
    "conv2d": lambda f: f.conv2d(torch.ones(1, 3, 5, 5), torch.ones(4, 3, 3, 3), torch.ones(4)),
    "conv_transpose2d": lambda f: f.conv_transpose2d(torch.ones(1, 3, 5, 5), torch.ones(3, 4, 3, 3)),
    "linear": lambda f: f.linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)),
    "prelu": lambda f: f.prelu(torch.ones(1, 3, 5, 5), torch.ones(3)),
    "max_pool2d": lambda f: f.max_pool2d(torch.ones(1, 3, 5, 5), 2),
    "avg_pool2d": lambda f: f.avg_pool2d(torch.ones(1, 3, 5, 5), 2),
    "relu6": lambda f: f.relu6(torch.ones(1, 3, 5, 5)),
    "softmax": lambda f: f.softmax(torch.ones(1, 3), 1),
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("call", AUTOCAST.values(), ids=AUTOCAST)
def test_autocast_lowers_what_torchs_lowers(call: Any, grad: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        ours, theirs = call(functional), call(torch_f)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


def test_autocast_differentiates_to_the_weights_dtype() -> None:
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.conv2d(x, w)
    y.float().sum().backward()
    assert w.grad is not None and w.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap() -> None:
    x, w = torch.randn(3, 2, 4, 6, 5), torch.randn(8, 4, 3, 3)
    ours = torch.vmap(lambda x: functional.conv2d(x, w, padding=1, act="relu"))(x)
    close(ours, torch.relu(torch.stack([torch_f.conv2d(image, w, padding=1) for image in x])))


def test_the_reference_backend_serves_every_function() -> None:
    x, w = torch.randn(1, 4, 5, 5, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)

    def everything() -> Tensor:
        y = functional.conv2d(x, w, padding=1, act="silu")
        y = functional.max_pool2d(functional.upsample_conv2d(y, w, padding=1), 2)
        y = functional.avg_pool2d(functional.conv_transpose2d(y, w), 2)
        y = functional.adaptive_avg_pool2d(functional.prelu(y, torch.full((4,), 0.1)), 2)
        return functional.softmax(functional.linear(y.flatten(1), torch.ones(3, 16)), 1)

    with fastconv.backend("reference"):
        expected = everything()
        dx, dw = torch.autograd.grad(expected[0, 0], (x, w))
    y = everything()
    close(y, expected)
    for ours, theirs in zip(torch.autograd.grad(y[0, 0], (x, w)), (dx, dw), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    x, w = torch.randn(2, 16, 19, 17), torch.randn(24, 16, 3, 3)
    dy = torch.randn(2, 24, 17, 15)

    def everything() -> list[Tensor]:
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = functional.conv2d(*leaves)
        a = functional.gemm(x.view(-1, 17), x.view(-1, 17), transpose_b=True)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy), a, functional.avg_pool2d(x, 3), functional.silu(x)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = everything()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(everything(), single, strict=True))
    finally:
        torch.set_num_threads(before)
