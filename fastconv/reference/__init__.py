"""The backend `reference`: every operator in plain Python and NumPy, float64, written from the definitions.

It judges the kernels, so it shares no code with them, nor with torch or scipy. Arrays are NCHW, indices are
    n  batch        k, c  output and input channels       p, q  output row and column
    r, s  kernel row and column (a "tap")                 h, w  input row and column
and a loop runs over the taps (r, s), each handled with whole-array slices. Halves arrive already widened to float64.
"""

from .activation import (
    ACTIVATIONS,
    activation,
    activation_backward,
    activation_derivative,
    activation_double_backward,
    activation_second_derivative,
    prelu_alpha_grad,
    softmax,
    softmax_backward,
)
from .blocks import conv_max_pool, depthwise_pointwise, inverted_residual
from .conv import (
    conv2d,
    conv2d_bias_grad,
    conv2d_bn_act,
    conv2d_input_grad,
    conv2d_output_size,
    conv2d_weight_grad,
    conv_transpose2d,
    conv_transpose2d_input_grad,
    conv_transpose2d_weight_grad,
)
from .gemm import gemm, gemm_grad, linear, linear_grad
from .norm import batch_norm_act, batch_norm_act_backward, batch_norm_stats, conv2d_stats
from .pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    pooled_size,
)
from .resample import (
    col2im,
    im2col,
    upsample_conv2d,
    upsample_conv2d_input_grad,
    upsample_conv2d_weight_grad,
    upsample_nearest2d,
    upsample_nearest2d_backward,
)

__all__ = [
    "ACTIVATIONS",
    "activation",
    "activation_backward",
    "activation_derivative",
    "activation_double_backward",
    "activation_second_derivative",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm_act",
    "batch_norm_act_backward",
    "batch_norm_stats",
    "col2im",
    "conv2d",
    "conv2d_bias_grad",
    "conv2d_bn_act",
    "conv2d_input_grad",
    "conv2d_output_size",
    "conv2d_stats",
    "conv2d_weight_grad",
    "conv_max_pool",
    "conv_transpose2d",
    "conv_transpose2d_input_grad",
    "conv_transpose2d_weight_grad",
    "depthwise_pointwise",
    "gemm",
    "gemm_grad",
    "im2col",
    "inverted_residual",
    "linear",
    "linear_grad",
    "max_pool2d",
    "max_pool2d_backward",
    "pooled_size",
    "prelu_alpha_grad",
    "softmax",
    "softmax_backward",
    "upsample_conv2d",
    "upsample_conv2d_input_grad",
    "upsample_conv2d_weight_grad",
    "upsample_nearest2d",
    "upsample_nearest2d_backward",
]
