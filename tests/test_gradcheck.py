"""Derivatives against finite differences in float64, first and second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastconv import functional

ACTS = tuple(act for act in functional.ACTIVATIONS if act not in ("identity", "prelu"))
# One side of every kink and both tails; kinks (0, 6, 3, -3) are at least 0.1 away, further than a finite difference.
POINTS = (-4.3, -3.2, -2.7, -1.1, -0.4, -0.1, 0.15, 0.6, 1.3, 2.9, 3.4, 5.8, 6.3)


def _leaf(*shape: int, channels_last: bool = False) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def _check(function: Callable[..., Any], *leaves: Tensor, second: bool = True) -> None:
    # fast_mode compares one random direction of the Jacobian: wrong entries show up in it, at a fraction of the time.
    gradcheck(function, leaves, fast_mode=True)
    if second:
        gradgradcheck(function, leaves, fast_mode=True)


# ---- products ----------------------------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "stride_pair": {"stride": (2, 1), "padding": (1, 0)},
    "padding": {"padding": 1},
    "asymmetric": {"padding": (1, 0, 2, 1)},
    "same": {"padding": "same"},
    "dilation": {"dilation": 2, "padding": (2, 1)},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "padding": 1, "stride": 2},
    "all": {"stride": (1, 2), "padding": (2, 1), "dilation": (1, 2), "groups": 2},
}


@pytest.mark.parametrize("bias", [False, True], ids=["nobias", "bias"])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_conv2d(options: dict[str, Any], bias: bool) -> None:
    leaves = [_leaf(2, 4, 5, 6), _leaf(4, 4 // options.get("groups", 1), 3, 3)]
    if bias:
        leaves.append(_leaf(4))
    _check(lambda x, w, b=None: functional.conv2d(x, w, b, **options), *leaves)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 5)], ids=str)
def test_conv2d_on_channels_last(kernel: tuple[int, int]) -> None:
    x, w = _leaf(2, 4, 6, 5, channels_last=True), _leaf(3, 4, *kernel, channels_last=True)
    _check(lambda x, w: functional.conv2d(x, w, padding=1), x, w)


def test_conv2d_without_a_batch_axis() -> None:
    _check(lambda x, w, b: functional.conv2d(x, w, b, padding=1), _leaf(3, 5, 4), _leaf(2, 3, 3, 3), _leaf(2))


TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "output_padding": {"stride": 2, "padding": 1, "output_padding": 1},
    "output_padding_beyond_padding": {"stride": (2, 3), "output_padding": (1, 2)},
    "dilation": {"dilation": 2, "padding": (1, 2)},
    "dilation_and_output_padding": {"dilation": 3, "output_padding": 2, "padding": 1},
    "groups": {"groups": 2, "stride": 2},
    "depthwise": {"groups": 4, "padding": 1},
}


@pytest.mark.parametrize("options", TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose2d(options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    leaves = _leaf(2, 4, 3, 4), _leaf(4, 4 // groups, 3, 2), _leaf(4)
    _check(lambda x, w, b: functional.conv_transpose2d(x, w, b, **options), *leaves)


UPSAMPLED: dict[str, dict[str, Any]] = {
    "same": {"padding": 1},
    "factors": {"scale_factor": (3, 1), "padding": 1},
    "stride": {"stride": 2, "padding": 1},
    "groups": {"groups": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
}


@pytest.mark.parametrize("options", UPSAMPLED.values(), ids=UPSAMPLED)
def test_upsample_conv2d(options: dict[str, Any]) -> None:
    leaves = _leaf(2, 4, 3, 4), _leaf(4, 4 // options.get("groups", 1), 3, 3), _leaf(4)
    _check(lambda x, w, b: functional.upsample_conv2d(x, w, b, **options), *leaves)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["matrix", "batch"])
def test_gemm(batch: tuple[int, ...], transpose_a: bool, transpose_b: bool) -> None:
    a = _leaf(*batch, *((4, 3) if transpose_a else (3, 4)))
    b = _leaf(*batch, *((5, 4) if transpose_b else (4, 5)))

    def product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
        return functional.gemm(a, b, bias, transpose_a=transpose_a, transpose_b=transpose_b)

    _check(product, a, b, _leaf(5))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_linear(shape: tuple[int, ...]) -> None:
    _check(functional.linear, _leaf(*shape), _leaf(5, 4), _leaf(5))


# ---- epilogues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ("identity", *ACTS))
def test_every_part_of_conv2d_epilogue(act: str) -> None:
    leaves = _leaf(2, 3, 4, 5), _leaf(4, 3, 3, 3), _leaf(4), _leaf(4), _leaf(4), _leaf(2, 4, 4, 5)

    def fused(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        return functional.conv2d(x, w, b, padding=1, scale=scale, shift=shift, residual=residual, act=act)

    _check(fused, *leaves, second=act in ("identity", "sigmoid"))


ALPHAS = {"one": (1,), "channel": (4,), "full": (4, 4, 5)}


@pytest.mark.parametrize("shape", ALPHAS.values(), ids=ALPHAS)
def test_conv2d_alpha(shape: tuple[int, ...]) -> None:
    leaves = _leaf(2, 3, 4, 5), _leaf(4, 3, 3, 3), _leaf(2, 4, 4, 5), _leaf(*shape)

    def fused(x: Tensor, w: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
        return functional.conv2d(x, w, padding=1, residual=residual, act="prelu", act_param=alpha)

    _check(fused, *leaves)


@pytest.mark.parametrize("shape", [(1,), (4,), (4, 6, 8)], ids=str)
def test_upsample_conv2d_epilogue(shape: tuple[int, ...]) -> None:
    leaves = _leaf(2, 3, 3, 4), _leaf(4, 3, 3, 3), _leaf(4), _leaf(4), _leaf(2, 4, 6, 8), _leaf(*shape)

    def fused(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
        parts: dict[str, Any] = {"scale": scale, "shift": shift, "residual": residual}
        return functional.upsample_conv2d(x, w, padding=1, **parts, act="prelu", act_param=alpha)

    _check(fused, *leaves)


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 5)], ids=str)
def test_gemm_epilogue(shape: tuple[int, ...]) -> None:
    leaves = _leaf(3, 4), _leaf(4, 5), _leaf(5), _leaf(3, 5), _leaf(*shape)

    def fused(a: Tensor, b: Tensor, bias: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
        return functional.gemm(a, b, bias, residual=residual, act="prelu", act_param=alpha)

    _check(fused, *leaves)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 5)], ids=str)
def test_linear_epilogue(shape: tuple[int, ...]) -> None:
    leaves = _leaf(2, 3, 4), _leaf(5, 4), _leaf(5), _leaf(2, 3, 5), _leaf(*shape)

    def fused(x: Tensor, w: Tensor, bias: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
        return functional.linear(x, w, bias, residual=residual, act="prelu", act_param=alpha)

    _check(fused, *leaves)


def test_conv2d_bn_act() -> None:
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5

    def fused(x: Tensor, w: Tensor, b: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return functional.conv2d_bn_act(x, w, b, mean, var, gamma, beta, padding=1, act="silu")

    _check(fused, _leaf(2, 3, 4, 5), _leaf(4, 3, 3, 3), _leaf(4), _leaf(4), _leaf(4))


# ---- activations, pooling, rearrangement -------------------------------------------------------------------------


@pytest.mark.parametrize("act", ACTS)
def test_activations(act: str) -> None:
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    _check(getattr(functional, act), x)


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 2, 4)], ids=str)
def test_prelu(shape: tuple[int, ...]) -> None:
    x = torch.tensor(POINTS * 4, dtype=torch.float64)[:48].reshape(2, 3, 2, 4).requires_grad_()
    _check(functional.prelu, x, _leaf(*shape))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(dim: int) -> None:
    _check(lambda x: functional.softmax(x, dim), _leaf(3, 4, 5))


def _distinct(*shape: int) -> Tensor:
    """Values further apart than a finite difference: which one is the largest must not change."""
    count = torch.Size(shape).numel()
    return (torch.randperm(count).double().reshape(shape) / count).requires_grad_()


@pytest.mark.parametrize("channels_last", [False, True])
def test_max_pool2d(channels_last: bool) -> None:
    x = _distinct(2, 3, 7, 6)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    _check(lambda x: functional.max_pool2d(x, 3, 2, 1), x)
    _check(lambda x: functional.max_pool2d(x, (2, 3), 1, dilation=2, ceil_mode=True), x)
    _check(lambda x: functional.max_pool2d(x, 2, return_indices=True)[0], x)


@pytest.mark.parametrize("options", [{}, {"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": 3}])
def test_avg_pool2d(options: dict[str, Any]) -> None:
    _check(lambda x: functional.avg_pool2d(x, 3, 2, 1, **options), _leaf(2, 3, 7, 6))
    _check(lambda x: functional.avg_pool2d(x, 2, **options), _leaf(2, 3, 6, 5, channels_last=True))


@pytest.mark.parametrize("size", [1, (3, 2), (None, 5), (9, 8)], ids=str)
def test_adaptive_pools(size: Any) -> None:
    _check(lambda x: functional.adaptive_avg_pool2d(x, size), _leaf(2, 3, 7, 6))
    _check(lambda x: functional.adaptive_max_pool2d(x, size), _distinct(2, 3, 7, 6))


def test_im2col_and_col2im() -> None:
    window: dict[str, Any] = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    _check(lambda x: functional.im2col(x, **window), _leaf(2, 3, 7, 6))
    columns = torch_f.unfold(torch.zeros(2, 3, 7, 6), **window).shape
    _check(lambda x: functional.col2im(x, (7, 6), **window), _leaf(*columns))
