"""The kernels as functions: torch's arguments first, then what can be fused.

Every function takes CPU tensors (and CUDA tensors where the build has CUDA kernels), contiguous, channels_last or
strided, float32, float64, float16 or bfloat16, and is differentiable where torch's counterpart is.
"""

from . import cache
from .activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    prelu,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from .arguments import ACTIVATIONS
from .blocks import Stage, conv_max_pool, depthwise_pointwise, inverted_residual
from .conv import conv2d, conv2d_bn_act, upsample_conv2d
from .conv_transpose import conv_transpose2d
from .gemm import gemm, linear
from .norm import batch_norm_act
from .pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from .rearrange import col2im, im2col

__all__ = [
    "ACTIVATIONS",
    "Stage",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm_act",
    "cache",
    "col2im",
    "conv2d",
    "conv2d_bn_act",
    "conv_max_pool",
    "conv_transpose2d",
    "depthwise_pointwise",
    "elu",
    "gelu",
    "gemm",
    "hardsigmoid",
    "hardswish",
    "im2col",
    "inverted_residual",
    "leaky_relu",
    "linear",
    "max_pool2d",
    "prelu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "upsample_conv2d",
]
