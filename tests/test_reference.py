"""The reference against torch's float64 operators and autograd: over the cases, random shapes and edges."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_f
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastconv import reference as ref
from fastconv.verify.cases import Case, all_cases
from fastconv.verify.tolerances import compare_all

Axis = tuple[int, int, int, int, int]  # size, kernel, stride, padding, dilation


def _close(actual: np.ndarray, expected: torch.Tensor) -> None:
    assert actual.shape == tuple(expected.shape)
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-10, atol=1e-11)


def _random(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def _grads(y: torch.Tensor, *leaves: torch.Tensor) -> tuple[np.ndarray, Sequence[torch.Tensor]]:
    """A random dy and what autograd makes of it."""
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return dy.numpy(), torch.autograd.grad(y, leaves, dy)


def _n(t: torch.Tensor) -> np.ndarray:
    return t.detach().numpy()


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_every_case_agrees_with_torch(case: Case) -> None:
    for layout in ("nchw", "nhwc"):
        inputs = case.make_inputs(torch.float64, layout)
        actual = tuple(torch.from_numpy(np.asarray(y)) for y in case.reference(inputs))
        expected = case.torch(inputs)
        verdict = compare_all(actual, [_n(y) for y in expected], actual, exact=False)
        assert verdict, verdict.message


# ---- random shapes -----------------------------------------------------------------------------------------------


def _axes(pooling: bool = False) -> st.SearchStrategy[Axis]:
    """One axis on which at least one window fits; a pooling's padding is at most half its kernel."""
    small = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3))
    fits = small.filter(lambda a: a[0] + 2 * a[3] >= a[4] * (a[1] - 1) + 1)
    return fits.filter(lambda a: 2 * a[3] <= a[1] and a[0] + 2 * a[3] >= a[4] * (a[1] - 1) + 1) if pooling else fits


def _split(rows: Axis, columns: Axis) -> list[tuple[int, int]]:
    return [(a, b) for a, b in zip(rows, columns, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    rows=_axes(), columns=_axes(), n=st.integers(0, 2), g=st.integers(1, 3), c=st.integers(1, 3), k=st.integers(1, 3)
)
def test_conv2d_and_its_gradients(rows: Axis, columns: Axis, n: int, g: int, c: int, k: int) -> None:
    size, kernel, stride, padding, dilation = _split(rows, columns)
    x, w, b = _random(2, n, g * c, *size), _random(3, g * k, c, *kernel), _random(4, g * k)
    window = (stride, padding, dilation, g)
    y = torch_f.conv2d(x, w, b, *window)
    _close(ref.conv2d(_n(x), _n(w), _n(b), *window), y)
    dy, (dx, dw, db) = _grads(y, x, w, b)
    _close(ref.conv2d_input_grad(dy, _n(w), x.shape, *window), dx)
    _close(ref.conv2d_weight_grad(dy, _n(x), w.shape, *window), dw)
    _close(ref.conv2d_bias_grad(dy), db)
    columns_matrix = torch_f.unfold(x, kernel, dilation, padding, stride) if n else None
    if columns_matrix is not None:
        _close(ref.im2col(_n(x), kernel, stride, padding, dilation), columns_matrix)
        image = torch_f.fold(columns_matrix, size, kernel, dilation, padding, stride)
        _close(ref.col2im(_n(columns_matrix), size, kernel, stride, padding, dilation), image)


@settings(max_examples=60, deadline=None)
@given(rows=_axes(), columns=_axes(), extra=st.tuples(st.integers(0, 2), st.integers(0, 2)), g=st.integers(1, 2))
def test_conv_transpose2d_and_its_gradients(rows: Axis, columns: Axis, extra: tuple[int, int], g: int) -> None:
    size, kernel, stride, padding, dilation = _split(rows, columns)
    for axis in (0, 1):
        assume(extra[axis] < max(stride[axis], dilation[axis]))
        window = dilation[axis] * (kernel[axis] - 1) + 1
        assume((size[axis] - 1) * stride[axis] - 2 * padding[axis] + window + extra[axis] > 0)
    x, w, b = _random(2, 2, g * 3, *size), _random(3, g * 3, 2, *kernel), _random(4, g * 2)
    y = torch_f.conv_transpose2d(x, w, b, stride, padding, extra, g, dilation)
    _close(ref.conv_transpose2d(_n(x), _n(w), _n(b), stride, padding, extra, g, dilation), y)
    dy, (dx, dw) = _grads(y, x, w)
    _close(ref.conv_transpose2d_input_grad(dy, _n(w), x.shape, stride, padding, g, dilation), dx)
    _close(ref.conv_transpose2d_weight_grad(dy, _n(x), w.shape, stride, padding, g, dilation), dw)


@settings(max_examples=80, deadline=None)
@given(rows=_axes(True), columns=_axes(True), ceil_mode=st.booleans(), count=st.booleans(), levels=st.integers(1, 3))
def test_pooling(rows: Axis, columns: Axis, ceil_mode: bool, count: bool, levels: int) -> None:
    size, kernel, stride, padding, dilation = _split(rows, columns)
    x = (_random(2, 2, 3, *size).detach() * levels).round().requires_grad_()  # with ties
    y, index = torch_f.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    best, chosen = ref.max_pool2d(_n(x), kernel, stride, padding, dilation, ceil_mode)
    assume((chosen >= 0).all())  # a window without a pixel: torch's index lies outside the image
    _close(best, y)
    np.testing.assert_array_equal(chosen, index.numpy())
    dy, (dx,) = _grads(y, x)
    _close(ref.max_pool2d_backward(dy, chosen, x.shape), dx)
    assume(all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True)))
    for divisor in (None, 3):
        y = torch_f.avg_pool2d(x, kernel, stride, padding, ceil_mode, count, divisor)
        _close(ref.avg_pool2d(_n(x), kernel, stride, padding, ceil_mode, count, divisor), y)
        dy, (dx,) = _grads(y, x)
        _close(ref.avg_pool2d_backward(dy, x.shape, kernel, stride, padding, ceil_mode, count, divisor), dx)


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(*[st.integers(1, 9)] * 2), out=st.tuples(*[st.integers(1, 11)] * 2))
def test_adaptive_pooling_and_nearest(size: tuple[int, int], out: tuple[int, int]) -> None:
    x = _random(2, 2, 3, *size)
    y = torch_f.adaptive_avg_pool2d(x, out)
    _close(ref.adaptive_avg_pool2d(_n(x), out), y)
    dy, (dx,) = _grads(y, x)
    _close(ref.adaptive_avg_pool2d_backward(dy, x.shape), dx)
    y, index = torch_f.adaptive_max_pool2d(x, out, return_indices=True)
    best, chosen = ref.adaptive_max_pool2d(_n(x), out)
    _close(best, y)
    np.testing.assert_array_equal(chosen, index.numpy())
    y = torch_f.interpolate(x, size=out, mode="nearest")
    _close(ref.upsample_nearest2d(_n(x), out), y)
    dy, (dx,) = _grads(y, x)
    _close(ref.upsample_nearest2d_backward(dy, x.shape, out), dx)


# ---- activations -------------------------------------------------------------------------------------------------

TORCH_ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x * 1,
    "relu": torch_f.relu,
    "relu6": torch_f.relu6,
    "leaky_relu": lambda x: torch_f.leaky_relu(x, 0.2),
    "prelu": lambda x: torch_f.prelu(x, torch.tensor([0.3], dtype=torch.float64)),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": torch_f.silu,
    "hardswish": torch_f.hardswish,
    "hardsigmoid": torch_f.hardsigmoid,
    "gelu": torch_f.gelu,
    "elu": lambda x: torch_f.elu(x, 0.2),
}
ALPHA = np.array([0.3])


@pytest.mark.parametrize("act", ref.ACTIVATIONS)
def test_activation_values_and_derivatives(act: str) -> None:
    """At the kinks, far out, at NaN and Inf, and in between."""
    edges = [0.0, -0.0, 3.0, -3.0, 6.0, 800.0, -800.0, float("nan"), float("inf"), float("-inf")]
    points = torch.cat([torch.tensor(edges, dtype=torch.float64), torch.linspace(-8, 8, 101, dtype=torch.float64)])
    x = points.requires_grad_()
    y = TORCH_ACTS[act](x)
    _close(ref.activation(_n(x), act, 0.2, ALPHA), y)
    (dx,) = torch.autograd.grad(y.sum(), x)
    # torch's derivative at NaN depends on whether its vector loop or its scalar tail met it, and its hardsigmoid has
    # 1/6 in float32
    number = ~np.isnan(_n(x))
    derivative = ref.activation_derivative(_n(x), act, 0.2, ALPHA)
    np.testing.assert_allclose(
        derivative[number], _n(dx)[number], rtol=1e-7 if act == "hardsigmoid" else 1e-10, atol=1e-11
    )


@pytest.mark.parametrize("act", [a for a in ref.ACTIVATIONS if a not in ("identity", "prelu", "hardsigmoid")])
def test_second_derivatives(act: str) -> None:
    """Against double backward; torch has none for hardsigmoid."""
    x = torch.linspace(-7.9, 8.3, 80, dtype=torch.float64).requires_grad_()
    dy = torch.linspace(0.5, 2, 80, dtype=torch.float64).requires_grad_()
    (dx,) = torch.autograd.grad(TORCH_ACTS[act](x), x, dy, create_graph=True)
    ddx = torch.linspace(-1, 1, 80, dtype=torch.float64)
    to_dy, to_x = torch.autograd.grad(dx, (dy, x), ddx, allow_unused=True)
    first, second = ref.activation_double_backward(_n(ddx), _n(dy), _n(x), act, 0.2)
    _close(first, to_dy)
    _close(second, to_x if to_x is not None else torch.zeros_like(x))


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 4, 5)])
def test_prelu_alpha_gradient(shape: tuple[int, ...]) -> None:
    x, alpha = _random(2, 2, 3, 4, 5), _random(3, *shape)
    slopes = alpha.reshape(-1, 1, 1) if shape == (3,) else alpha
    y = torch.where(x > 0, x, slopes * x)
    dy, (dx, dalpha) = _grads(y, x, alpha)
    _close(ref.activation(_n(x), "prelu", alpha=_n(alpha)), y)
    _close(ref.activation_backward(dy, _n(x), "prelu", alpha=_n(alpha)), dx)
    _close(ref.prelu_alpha_grad(dy, _n(x), shape), dalpha)


def test_bad_activations_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected act to be one of identity, relu, .* but got 'swish'"):
        ref.activation(np.zeros(3), "swish")
    with pytest.raises(ValueError, match="expected alpha to be given"):
        ref.activation(np.zeros(3), "prelu")


# ---- the rest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn_a", [False, True])
@pytest.mark.parametrize("turn_b", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_gemm_gradients(turn_a: bool, turn_b: bool, batch: tuple[int, ...]) -> None:
    a, b, bias = _random(2, *batch, 4, 5), _random(3, *batch, 5, 6), _random(4, 6)
    if turn_a:
        a = a.detach().mT.contiguous().requires_grad_()
    if turn_b:
        b = b.detach().mT.contiguous().requires_grad_()
    y = (a.mT if turn_a else a) @ (b.mT if turn_b else b) + bias
    dy, grads = _grads(y, a, b, bias)
    for actual, expected in zip(ref.gemm_grad(dy, _n(a), _n(b), turn_a, turn_b), grads, strict=True):
        _close(actual, expected)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
@pytest.mark.parametrize("features", [5, 0])
def test_linear(leading: tuple[int, ...], features: int) -> None:
    x, w, b = _random(2, *leading, features), _random(3, 6, features), _random(4, 6)
    y = torch_f.linear(x, w, b)
    _close(ref.linear(_n(x), _n(w), _n(b)), y)
    dy, grads = _grads(y, x, w, b)
    for actual, expected in zip(ref.linear_grad(dy, _n(x), _n(w)), grads, strict=True):
        _close(actual, expected)


@pytest.mark.parametrize("affine", [False, True])
def test_conv2d_bn_act(affine: bool) -> None:
    x, w, b, mean, shift = _random(2, 2, 3, 6, 5), _random(3, 4, 3, 3, 3), _random(4, 4), _random(5, 4), _random(6, 4)
    var, scale = _random(7, 4).detach().abs() + 0.1, _random(8, 4)
    residual = _random(9, 2, 4, 6, 5)
    y = torch_f.conv2d(x, w, b, padding=1)
    norm = torch_f.batch_norm(y, mean.detach(), var, *((scale, shift) if affine else ()))
    expected = torch_f.relu6(norm + residual)
    weights = (_n(scale), _n(shift)) if affine else (None, None)
    options: dict[str, Any] = {"padding": 1, "residual": _n(residual), "act": "relu6"}
    _close(ref.conv2d_bn_act(_n(x), _n(w), _n(b), _n(mean), _n(var), *weights, **options), expected)


@pytest.mark.parametrize("kernel", [(3, 3), (4, 2), (1, 6)])
def test_conv2d_same_padding(kernel: tuple[int, int]) -> None:
    x, w = _random(2, 1, 2, 7, 8), _random(3, 3, 2, *kernel)
    _close(ref.conv2d(_n(x), _n(w), padding="same"), torch_f.conv2d(x, w, padding="same"))
    if kernel[0] < 7:
        _close(ref.conv2d(_n(x), _n(w), padding="valid"), torch_f.conv2d(x, w, padding="valid"))


def test_max_pool_of_nan_and_minus_infinity() -> None:
    x = torch.full((1, 1, 5, 5), float("-inf"), dtype=torch.float64)
    for where in ((), (1, 2), (3, 3)):
        if where:
            x[0, 0, where[0], where[1]] = float("nan")
        for ceil_mode in (False, True):
            y, index = torch_f.max_pool2d(x, 3, 2, 1, 1, ceil_mode, return_indices=True)
            best, chosen = ref.max_pool2d(_n(x), 3, 2, 1, 1, ceil_mode)
            np.testing.assert_array_equal(best, _n(y))
            np.testing.assert_array_equal(chosen, index.numpy())
        y, index = torch_f.adaptive_max_pool2d(x, 3, return_indices=True)
        best, chosen = ref.adaptive_max_pool2d(_n(x), 3)
        np.testing.assert_array_equal(best, _n(y))
        np.testing.assert_array_equal(chosen, index.numpy())


def test_padding_holds_real_zeros() -> None:
    """A NaN weight reaches the border through 0 * NaN, as in torch's own float64 convolution."""
    x, w = _random(2, 1, 3, 5, 5).detach(), _random(3, 4, 3, 3, 3).detach()
    w[0, 0, 0, 0], w[1, 0, 2, 2] = float("nan"), float("inf")
    expected = torch_f.conv2d(x, w, padding=1)
    actual = ref.conv2d(_n(x), _n(w), padding=1)
    np.testing.assert_array_equal(np.isnan(actual), _n(expected.isnan()))


@pytest.mark.parametrize("scale", [2, 3.0, 0.6, (1.5, 2.5)])
def test_nearest_scale_factors(scale: float | tuple[float, float]) -> None:
    x = _random(2, 1, 2, 6, 7)
    y = torch_f.interpolate(x, scale_factor=scale, mode="nearest")
    _close(ref.upsample_nearest2d(_n(x), scale_factor=scale), y)
    dy, (dx,) = _grads(y, x)
    _close(ref.upsample_nearest2d_backward(dy, x.shape, scale_factor=scale), dx)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    x = (_random(2, 3, 4, 5).detach() * 300).requires_grad_()
    y = torch.softmax(x, axis)
    _close(ref.softmax(_n(x), axis), y)
    dy, (dx,) = _grads(y, x)
    _close(ref.softmax_backward(dy, _n(y), axis), dx)
