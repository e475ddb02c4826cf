"""Activations, their first and second derivatives, and softmax, from the definitions.

At a kink the derivative is the one torch takes; its side is written out in each formula. Where the derivative is a
constant on both sides a NaN takes the branch that the comparison sends it to: relu'(NaN) = 1, leaky_relu'(NaN) = slope.
torch does the same for those two, and for the others one thing in its vector loop and another in its scalar tail.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# The order is the enumeration's: a kernel receives the position of the name in this tuple.
ACTIVATIONS = (
    "identity",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "sigmoid",
    "tanh",
    "silu",
    "hardswish",
    "hardsigmoid",
    "gelu",
    "elu",
)
DEFAULT_PARAM = {"leaky_relu": 0.01, "elu": 1.0}

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _f64(x: npt.ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def _param(act: str, act_param: float | None) -> float:
    if act not in ACTIVATIONS:
        raise ValueError(f"activation: expected act to be one of {', '.join(ACTIVATIONS)}, but got {act!r}")
    return DEFAULT_PARAM.get(act, 0.0) if act_param is None else float(act_param)


def broadcast_alpha(alpha: npt.ArrayLike | None, shape: Sequence[int], channel_axis: int = 1) -> Array:
    """PReLU's slopes at every element of `shape`: alpha is (1,), (K,) along channel_axis, or one slope an element.

    A full alpha has the output's shape without the batch, (K, P, Q), or with it; a 1-D x has one channel.
    """
    if alpha is None:
        raise ValueError("activation: expected alpha to be given with act='prelu', but got None")
    a = _f64(alpha)
    if a.ndim == 1 and a.size > 1:
        per_channel = [1] * len(shape)
        per_channel[channel_axis] = a.size
        a = a.reshape(per_channel)
    return np.broadcast_to(a, tuple(shape))


def _sigmoid(x: Array) -> Array:
    # exp of a non-positive number only, so that it cannot overflow.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _gelu_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _normal_pdf(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


@np.errstate(all="ignore")
def activation(
    x: npt.ArrayLike,
    act: str,
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
    channel_axis: int = 1,
) -> Array:
    """y = act(x), elementwise. act_param is the slope of leaky_relu or elu's a; alpha holds prelu's slopes."""
    x = _f64(x)
    a = _param(act, act_param)
    if act == "identity":
        return x.copy()
    if act == "relu":
        return np.where(x < 0, 0.0, x)  # max(x, 0), and a NaN stays
    if act == "relu6":
        return np.where(x < 0, 0.0, np.where(x > 6, 6.0, x))
    if act == "leaky_relu":
        return np.where(x > 0, x, a * x)
    if act == "prelu":
        return np.where(x > 0, x, broadcast_alpha(alpha, x.shape, channel_axis) * x)
    if act == "sigmoid":
        return _sigmoid(x)
    if act == "tanh":
        return np.tanh(x)
    if act == "silu":
        return x * _sigmoid(x)
    if act == "hardswish":
        return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0
    if act == "hardsigmoid":
        return np.clip(x + 3.0, 0.0, 6.0) / 6.0
    if act == "gelu":
        return x * _gelu_cdf(x)
    return np.where(x > 0, x, a * np.expm1(np.minimum(x, 0.0)))  # elu; exp never sees a large argument


@np.errstate(all="ignore")
def activation_derivative(
    x: npt.ArrayLike,
    act: str,
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
    channel_axis: int = 1,
) -> Array:
    """act'(x), elementwise."""
    x = _f64(x)
    a = _param(act, act_param)
    if act == "identity":
        return np.ones_like(x)
    if act == "relu":
        return np.where(x <= 0, 0.0, 1.0)
    if act == "relu6":
        return np.where((x <= 0) | (x >= 6), 0.0, 1.0)
    if act == "leaky_relu":
        return np.where(x > 0, 1.0, a)
    if act == "prelu":
        return np.where(x > 0, 1.0, broadcast_alpha(alpha, x.shape, channel_axis))
    if act == "sigmoid":
        return _sigmoid(x) * _sigmoid(-x)
    if act == "tanh":
        return 1.0 - np.tanh(x) ** 2
    if act == "silu":
        return _sigmoid(x) * (1.0 + x * _sigmoid(-x))
    if act == "hardswish":
        return np.where(x <= -3, 0.0, np.where(x < 3, x / 3.0 + 0.5, 1.0))
    if act == "hardsigmoid":
        return np.where((x > -3) & (x < 3), 1.0 / 6.0, 0.0)
    if act == "gelu":
        return _gelu_cdf(x) + x * _normal_pdf(x)
    return np.where(x <= 0, a * np.exp(np.minimum(x, 0.0)), 1.0)  # elu


@np.errstate(all="ignore")
def activation_second_derivative(x: npt.ArrayLike, act: str, act_param: float | None = None) -> Array:
    """act''(x), elementwise; zero for every piecewise linear activation, prelu among them."""
    x = _f64(x)
    a = _param(act, act_param)
    if act == "sigmoid":
        y = _sigmoid(x)
        return y * _sigmoid(-x) * (1.0 - 2.0 * y)
    if act == "tanh":
        y = np.tanh(x)
        return -2.0 * y * (1.0 - y * y)
    if act == "silu":
        y, z = _sigmoid(x), _sigmoid(-x)
        return y * z * (2.0 + x * (1.0 - 2.0 * y))
    if act == "hardswish":
        return np.where((x > -3) & (x < 3), 1.0 / 3.0, 0.0)
    if act == "gelu":
        return _normal_pdf(x) * (2.0 - x * x)
    if act == "elu":
        return np.where(x < 0, a * np.exp(np.minimum(x, 0.0)), 0.0)
    return np.zeros_like(x)


@np.errstate(all="ignore")
def activation_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    act: str,
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
    channel_axis: int = 1,
) -> Array:
    """dx = dy * act'(x). A zero derivative gives 0 even where dy is Inf or NaN for relu and relu6, as in torch."""
    dy = _f64(dy)
    derivative = activation_derivative(x, act, act_param, alpha, channel_axis)
    if act in ("relu", "relu6", "hardsigmoid"):  # a selection, not a product
        return np.where(derivative == 0, 0.0, dy * derivative)
    return dy * derivative


def activation_double_backward(
    ddx: npt.ArrayLike, dy: npt.ArrayLike, x: npt.ArrayLike, act: str, act_param: float | None = None
) -> tuple[Array, Array]:
    """The gradients of sum(ddx * activation_backward(dy, x)): (to dy, to x). Not for prelu, whose alpha takes part."""
    ddx, dy = _f64(ddx), _f64(dy)
    return ddx * activation_derivative(x, act, act_param), ddx * dy * activation_second_derivative(x, act, act_param)


@np.errstate(all="ignore")
def prelu_alpha_grad(dy: npt.ArrayLike, x: npt.ArrayLike, alpha_shape: Sequence[int], channel_axis: int = 1) -> Array:
    """dalpha = the sum of dy * x over the elements with x <= 0 that share the slope."""
    dy, x = _f64(dy), _f64(x)
    terms = np.where(x > 0, 0.0, dy * x)
    size = math.prod(alpha_shape)
    if size == 1:
        return terms.sum().reshape(tuple(alpha_shape))
    if len(alpha_shape) == 1:
        axis = channel_axis % x.ndim
        return terms.sum(axis=tuple(i for i in range(x.ndim) if i != axis))
    shared = terms.ndim - len(alpha_shape)  # the leading axes that alpha does not have
    return terms.sum(axis=tuple(range(shared))).reshape(tuple(alpha_shape))


@np.errstate(all="ignore")
def softmax(x: npt.ArrayLike, axis: int = -1) -> Array:
    """y_i = exp(x_i - m) / sum_j exp(x_j - m) along axis, m the largest x_j: any m gives the same y."""
    x = _f64(x)
    if x.size == 0:
        return x.copy()
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax_backward(dy: npt.ArrayLike, y: npt.ArrayLike, axis: int = -1) -> Array:
    """dx_i = y_i * (dy_i - sum_j dy_j y_j), from the output y."""
    dy, y = _f64(dy), _f64(y)
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))
