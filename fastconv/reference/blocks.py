"""Blocks: chains of convolutions, and of a convolution and a maximum, each stage from its definition.

Between the stages nothing is rounded: the values are those of the definition, in float64.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .conv import Array, conv2d
from .pooling import max_pool2d

Ints = Sequence[int]
Optional = npt.ArrayLike | None
_PLAIN = (1, 0, 1, 1)  # stride, padding, dilation, groups of a 1x1 filter


def inverted_residual(
    x: npt.ArrayLike,
    expand_weight: npt.ArrayLike,
    expand_bias: Optional,
    expand_act: str,
    expand_param: float,
    expand_alpha: Optional,
    depthwise_weight: npt.ArrayLike,
    depthwise_bias: Optional,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    depthwise_act: str,
    depthwise_param: float,
    depthwise_alpha: Optional,
    project_weight: npt.ArrayLike,
    project_bias: Optional,
    residual: Optional,
    act: str,
    act_param: float,
    alpha: Optional,
) -> Array:
    """project(depthwise(expand(x))) + residual, each with its bias and activation."""
    hidden = conv2d(
        x, expand_weight, expand_bias, *_PLAIN, None, None, None, expand_act, expand_param, expand_alpha
    )  # fmt: skip
    return depthwise_pointwise(
        hidden, depthwise_weight, depthwise_bias, stride, padding, dilation, depthwise_act, depthwise_param,
        depthwise_alpha, project_weight, project_bias, residual, act, act_param, alpha,
    )  # fmt: skip


def depthwise_pointwise(
    x: npt.ArrayLike,
    depthwise_weight: npt.ArrayLike,
    depthwise_bias: Optional,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    depthwise_act: str,
    depthwise_param: float,
    depthwise_alpha: Optional,
    weight: npt.ArrayLike,
    bias: Optional,
    residual: Optional,
    act: str,
    act_param: float,
    alpha: Optional,
) -> Array:
    """pointwise(depthwise(x)) + residual, each with its bias and activation."""
    filtered = conv2d(
        x, depthwise_weight, depthwise_bias, stride, padding, dilation, np.shape(x)[1], None, None, None, depthwise_act,
        depthwise_param, depthwise_alpha,
    )  # fmt: skip
    return conv2d(filtered, weight, bias, *_PLAIN, None, None, residual, act, act_param, alpha)


def conv_max_pool(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: Optional,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    act: str,
    act_param: float,
    alpha: Optional,
    kernel_size: Ints,
    pool_stride: Ints,
    pool_padding: Ints,
    pool_dilation: Ints,
    ceil_mode: bool,
) -> Array:
    """The largest value of every window of conv(x), after its bias and activation."""
    y = conv2d(x, weight, bias, stride, padding, dilation, groups, None, None, None, act, act_param, alpha)
    return max_pool2d(y, kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)[0]
