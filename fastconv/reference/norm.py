"""Training-mode BatchNorm with a residual and an activation, and its gradients by the chain rule, step by step."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .activation import activation, activation_backward
from .conv import conv2d

Array = npt.NDArray[np.float64]

_PIXELS = (0, 2, 3)  # the axes that a channel's statistics run over


def _f64(x: npt.ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def _spread(vector: npt.ArrayLike | None, absent: float) -> Array:
    """One value for each channel, to be broadcast over an image."""
    return _f64(absent if vector is None else vector).reshape(1, -1, 1, 1)


@np.errstate(all="ignore")
def batch_norm_stats(x: npt.ArrayLike) -> tuple[Array, Array]:
    """The mean of every channel, and its variance with divisor N*H*W; NaN for an empty image."""
    image = _f64(x)
    if image.size == 0:
        nothing = np.full(image.shape[1], np.nan)
        return nothing, nothing.copy()
    mean = image.mean(_PIXELS)
    return mean, ((image - _spread(mean, 0.0)) ** 2).mean(_PIXELS)


def conv2d_stats(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Array, Array, Array]:
    """A convolution, and the statistics of its result."""
    y = conv2d(x, weight, bias, stride, padding, dilation, groups)
    return y, *batch_norm_stats(y)


@np.errstate(all="ignore")
def batch_norm_act(
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    residual: npt.ArrayLike | None = None,
    act: str = "identity",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> Array:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias + residual)."""
    normal = (_f64(x) - _spread(mean, 0.0)) / np.sqrt(_spread(var, 1.0) + eps)
    z = normal * _spread(weight, 1.0) + _spread(bias, 0.0) + (0.0 if residual is None else _f64(residual))
    return activation(z, act, act_param, alpha)


@np.errstate(all="ignore")
def batch_norm_act_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    training: bool = True,
    eps: float = 1e-5,
    residual: npt.ArrayLike | None = None,
    act: str = "identity",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(dx, dweight, dbias, dresidual) for the output gradient dy.

    With `training`, mean and var are x's own and carry their part of dx.
    """
    image = _f64(x)
    centred, spread = image - _spread(mean, 0.0), _spread(var, 1.0) + eps
    z = batch_norm_act(x, mean, var, weight, bias, eps, residual)
    dz = activation_backward(dy, z, act, act_param, alpha)
    dnormal = dz * _spread(weight, 1.0)
    dx = dnormal / np.sqrt(spread)
    if training and image.size:
        pixels = image.size // image.shape[1]
        dvar = (dnormal * centred).sum(_PIXELS, keepdims=True) * -0.5 * spread**-1.5
        dmean = -(dnormal / np.sqrt(spread)).sum(_PIXELS, keepdims=True)  # var's own part sums up to zero
        dx = dx + dvar * 2.0 * centred / pixels + dmean / pixels
    return dx, (dz * centred / np.sqrt(spread)).sum(_PIXELS), dz.sum(_PIXELS), dz
