"""Random arguments, mostly wrong: accepted where torch accepts and with its values, refused where torch refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from fuzzing import REFUSALS, dtypes, extent, image, memory, outcome, pair_of, parameter, tensor, window
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastconv import functional

EXAMPLES = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def same(ours: Callable[[], Any], theirs: Callable[[], Any], excused: bool = False) -> None:
    """Both accept with one result, or both refuse; `excused` allows us to refuse what torch accepts."""
    y, expected = outcome(ours), outcome(theirs)
    if isinstance(y, Exception):
        assert isinstance(y, REFUSALS) and str(y), repr(y)
        assert "fastconv: not served" not in str(y), str(y)
        assert isinstance(expected, Exception) or excused, f"refused what torch takes: {y!r}"
        return
    assert not isinstance(expected, Exception), f"accepted what torch refuses: {expected!r}"
    for a, b in zip(*((t if isinstance(t, tuple) else (t,)) for t in (y, expected)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3, equal_nan=True)


def unsupported(*tensors: Tensor) -> bool:
    return any(t.dtype in (torch.int64, torch.complex64) for t in tensors)


# ---- functions, against torch ------------------------------------------------------------------------------------


@given(st.data())
@EXAMPLES
def test_conv2d(data: st.DataObject) -> None:
    x = tensor(data.draw(image), data.draw(dtypes), data.draw(memory))
    groups = data.draw(st.sampled_from([-1, 0, 1, 1, 1, 1, 2, 3, 64]))
    channels = data.draw(st.one_of(extent, st.just(x.shape[-3] // max(groups, 1) if x.dim() > 2 else 1)))
    shape = (data.draw(extent), channels, data.draw(extent), data.draw(extent))
    w = tensor(shape, data.draw(st.one_of(st.just(x.dtype), dtypes)), data.draw(memory))
    bias = data.draw(st.one_of(st.none(), st.sampled_from([0, 1, shape[0]]).map(lambda n: tensor((n,), x.dtype))))
    padding = data.draw(st.one_of(pair_of, st.sampled_from(["same", "valid", "other"])))
    args = (x, w, bias, data.draw(pair_of), padding, data.draw(pair_of), groups)
    same(lambda: functional.conv2d(*args), lambda: torch_f.conv2d(*args), unsupported(x, w))


@given(st.data())
@EXAMPLES
def test_conv_transpose2d(data: st.DataObject) -> None:
    x = tensor(data.draw(image), data.draw(dtypes), data.draw(memory))
    channels = data.draw(st.one_of(extent, st.just(x.shape[-3] if x.dim() > 2 else 1)))
    groups = data.draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    w = tensor((channels, data.draw(extent), data.draw(extent), data.draw(extent)), x.dtype, data.draw(memory))
    rest = [data.draw(pair_of) for _ in range(4)]
    args = (x, w, None, rest[0], rest[1], rest[2], groups, rest[3])
    same(lambda: functional.conv_transpose2d(*args), lambda: torch_f.conv_transpose2d(*args), unsupported(x, w))


@given(st.data())
@EXAMPLES
def test_pooling(data: st.DataObject) -> None:
    x = tensor(data.draw(image), data.draw(dtypes), data.draw(memory))
    kernel, stride, padding = data.draw(pair_of), data.draw(st.one_of(st.none(), pair_of)), data.draw(pair_of)
    dilation, ceil_mode, include = data.draw(pair_of), data.draw(st.booleans()), data.draw(st.booleans())
    divisor = data.draw(st.sampled_from([None, None, 1, -2, 0, 3]))
    window = (kernel, stride, padding, dilation, ceil_mode, True)
    same(lambda: functional.max_pool2d(x, *window), lambda: torch_f.max_pool2d(x, *window), unsupported(x))
    average = (kernel, stride, padding, ceil_mode, include, divisor)
    same(lambda: functional.avg_pool2d(x, *average), lambda: torch_f.avg_pool2d(x, *average), unsupported(x))


@given(st.data())
@EXAMPLES
def test_adaptive_pooling(data: st.DataObject) -> None:
    x = tensor(data.draw(image), data.draw(dtypes), data.draw(memory))
    size = data.draw(st.one_of(pair_of, st.tuples(st.none(), parameter)))
    for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        ours, theirs = getattr(functional, name), getattr(torch_f, name)
        # A size of 1 is a mean to torch, which takes any dimensions.
        excused = unsupported(x) or x.dim() not in (3, 4)
        same(lambda: ours(x, size), lambda: theirs(x, size), excused)  # noqa: B023  called at once


@given(st.data())
@EXAMPLES
def test_windows(data: st.DataObject) -> None:
    x = tensor(data.draw(image), data.draw(dtypes), data.draw(memory))
    k, s, p, d = (data.draw(window) for _ in range(4))
    same(lambda: functional.im2col(x, k, s, p, d), lambda: torch_f.unfold(x, k, d, p, s), unsupported(x))
    columns = tensor(tuple(x.shape[:3]), x.dtype)
    size = data.draw(window)
    ours, theirs = functional.col2im, torch_f.fold
    same(lambda: ours(columns, size, k, s, p, d), lambda: theirs(columns, size, k, d, p, s), unsupported(x))


@given(st.data())
@EXAMPLES
def test_products(data: st.DataObject) -> None:
    shapes = st.lists(extent, max_size=4).map(tuple)
    a, b = (tensor(data.draw(shapes), data.draw(dtypes), data.draw(memory)) for _ in range(2))
    fits = data.draw(st.booleans()) and a.dim() and b.dim()
    w = tensor((data.draw(extent), a.shape[-1]), a.dtype) if fits else b
    same(lambda: functional.linear(a, w), lambda: torch_f.linear(a, w), unsupported(a, w))
    right = tensor((*a.shape[:-2], a.shape[-1], data.draw(extent)), a.dtype) if fits else b
    # Of the forms that torch's operator takes, gemm takes matrices and equal batches of them.
    plain = a.dim() == right.dim() and a.dim() in (2, 3) and a.shape[:-2] == right.shape[:-2]
    plain = plain and a.dtype == right.dtype  # which torch does not ask of empty batches
    same(lambda: functional.gemm(a, right), lambda: a @ right, unsupported(a, right) or not plain)


@given(st.data())
@EXAMPLES
def test_elementwise(data: st.DataObject) -> None:
    x = tensor(data.draw(st.lists(extent, max_size=5).map(tuple)), data.draw(dtypes), data.draw(memory))
    w = tensor(data.draw(st.lists(extent, max_size=3).map(tuple)), data.draw(st.one_of(st.just(x.dtype), dtypes)))
    full = w.dim() > 1 and w.shape in (x.shape, x.shape[1:])  # the forms that are ours alone
    if not full:
        same(lambda: functional.prelu(x, w), lambda: torch_f.prelu(x, w), unsupported(x, w))
    dim = data.draw(st.integers(-6, 5))
    same(lambda: functional.softmax(x, dim), lambda: torch_f.softmax(x, dim), unsupported(x))
    for act in ("relu", "relu6", "silu", "hardswish", "leaky_relu"):
        ours, theirs = getattr(functional, act), getattr(torch_f, act)
        same(lambda: ours(x), lambda: theirs(x), unsupported(x))  # noqa: B023  called at once


@given(st.data())
@EXAMPLES
def test_batch_norm(data: st.DataObject) -> None:
    shape = data.draw(st.one_of(image, st.lists(extent, min_size=1, max_size=5).map(tuple)))
    wide = dtypes.filter(lambda dtype: dtype is not torch.bfloat16)  # whose roundings differ by more than `same` allows
    x = tensor(shape, data.draw(wide), data.draw(memory))
    channels = x.shape[1] if x.dim() > 1 else 1
    dtype = x.dtype if x.is_floating_point() else torch.float32

    def vector(optional: bool = True) -> Tensor | None:
        count = data.draw(st.sampled_from([channels] * 9 + [0, 1, channels + 1]))
        return None if optional and data.draw(st.booleans()) else tensor((count,), dtype).abs() + 0.5

    training, kept = data.draw(st.booleans()), data.draw(st.booleans())
    mean, var = (vector(False), vector(False)) if kept else (None, None)
    args, rest = (vector(), vector(), training), (data.draw(st.sampled_from([0.1, 1.0])), 1e-5)

    def run(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        statistics = [None if t is None else t.clone() for t in (mean, var)]
        y = function(x, *statistics, *args, *rest)
        return y, *(t for t in statistics if t is not None)

    # torch's CPU kernels let statistics of any length pass where x is empty, and take an x without channels.
    lax = x.numel() == 0 or unsupported(x)
    same(lambda: run(functional.batch_norm_act), lambda: run(torch_f.batch_norm), lax)


HUGE = (2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, -(2**31), -(2**63), 2**100)


@pytest.mark.parametrize("value", HUGE)
def test_huge_parameters(value: int) -> None:
    """Overflow must not turn them into small ones; what is still a problem must give torch's answer."""
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    calls: list[Callable[[], Any]] = [
        lambda: functional.conv2d(x, w, dilation=value),
        lambda: functional.conv2d(x, w, groups=value),
        lambda: functional.conv2d(x, w, padding=value),
        lambda: functional.conv2d(x, w, padding=(value, 0, 0, value)),
        lambda: functional.upsample_conv2d(x, w, scale_factor=value),
        lambda: functional.conv_transpose2d(x, w.transpose(0, 1), stride=value),
        lambda: functional.conv_transpose2d(x, w.transpose(0, 1), dilation=value),
        lambda: functional.conv_transpose2d(x, w.transpose(0, 1), padding=value),
        lambda: functional.conv_transpose2d(x, w.transpose(0, 1), output_padding=value),
        lambda: functional.max_pool2d(x, value),
        lambda: functional.max_pool2d(x, 2, padding=value),
        lambda: functional.max_pool2d(x, 2, dilation=value),
        lambda: functional.avg_pool2d(x, value),
        lambda: functional.adaptive_avg_pool2d(x, value),
        lambda: functional.adaptive_max_pool2d(x, (value, 1)),
        lambda: functional.im2col(x, value),
        lambda: functional.im2col(x, 2, padding=value),
        lambda: functional.im2col(x, 2, padding=value - value % 2),
        lambda: functional.im2col(x, value // 2, padding=value // 2),
        lambda: functional.im2col(x, 2, dilation=value),
        lambda: functional.col2im(torch.randn(1, 12, 16), value, 2),
        lambda: functional.col2im(torch.randn(1, 12, 16), 5, value),
        lambda: functional.softmax(x, value),
    ]
    for call in calls:
        error = outcome(call)
        assert isinstance(error, (*REFUSALS, MemoryError)) and str(error), error
    for strided in (
        lambda: functional.conv2d(x, w, stride=value),
        lambda: functional.conv_transpose2d(x[:, :, :1, :1], w.transpose(0, 1)[:, :, :1, :1], stride=value),
        lambda: functional.max_pool2d(x, 2, value),
        lambda: functional.im2col(x, 2, value),
    ):
        y = outcome(strided)  # one window, or a refusal
        assert isinstance(y, REFUSALS) or y.numel() in (3, 4, 12)


@pytest.mark.parametrize("value", [5, 100, 5000, 70_000, 2**20, 2**31 - 2])
def test_large_parameters_that_are_still_a_problem(value: int) -> None:
    """Their cost is that of the output: nothing may loop over, or allocate for, a stride or a factor of millions."""
    x, w = torch.randn(2, 3, 6, 5, requires_grad=True), torch.randn(4, 3, 3, 2, requires_grad=True)
    small = torch.randn(1, 3, 1, 1, requires_grad=True)
    near = min(value, 100)  # gives the same, and torch's backward pass survives it
    cases: list[tuple[Callable[[Any, int], Tensor], Tensor]] = [
        (lambda f, v: f.conv2d(x, w, stride=v), x),
        (lambda f, v: f.conv2d(x, w[:1, :1].expand(3, 1, 3, 2), stride=(v, 1), groups=3), x),
        (lambda f, v: f.conv2d(x, w[:, :, :1, :1], dilation=v, stride=v), x),
        (lambda f, v: f.conv_transpose2d(small, w.transpose(0, 1), stride=v), small),
        (lambda f, v: f.max_pool2d(x, 2, v), x),
        (lambda f, v: f.avg_pool2d(x, (2, 1), (v, 1)), x),
        (lambda f, v: f.max_pool2d(x, v, padding=v // 2), x),
    ]
    for call, leaf in cases:
        ours, theirs = call(functional, value), call(torch_f, near)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        dy = torch.randn_like(ours)
        got, expected = (torch.autograd.grad(y, leaf, dy)[0] for y in (ours, theirs))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    mean = functional.avg_pool2d(x, value, padding=value // 2)
    torch.testing.assert_close(mean, torch_f.avg_pool2d(x, value, padding=value // 2))


@pytest.mark.parametrize("factor", [17, 100, (1, 1000), (3000, 1)], ids=str)
def test_large_upsampling_factors(factor: Any) -> None:
    x, w = torch.randn(1, 3, 2, 3), torch.randn(4, 3, 3, 3)
    expected = torch_f.conv2d(torch_f.interpolate(x, scale_factor=factor), w, padding=1)
    torch.testing.assert_close(
        functional.upsample_conv2d(x, w, None, factor, padding=1), expected, rtol=1e-4, atol=1e-4
    )
