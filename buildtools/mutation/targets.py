"""The verification cases that reach the kernels of a .cu file, as (operator, algorithm) of fastconv verify."""

import re

# Operators whose rows take each kind of call.
OPERATORS = {
    "GemmCall": ["gemm"],
    "Conv2dCall": ["conv2d", "upsample_conv2d"],
    "Conv2dStatsCall": ["conv2d_stats"],
    "InvertedResidualCall": ["inverted_residual"],
    "DepthwisePointwiseCall": ["depthwise_pointwise"],
    "Conv2dInputGradCall": ["conv2d_input_grad"],
    "Conv2dWeightGradCall": ["conv2d_weight_grad"],
}

# Of files without rows of their own: "" where an operator has one kernel. What another file instantiates just so
# needs no cases.
OTHERS: dict[str, list[tuple[str, str]]] = {
    "batch_norm.cu": [("batch_norm_act", "")],
    "batch_norm_grad.cu": [("batch_norm_act", "")],
    "batch_norm_stats.cu": [("batch_norm_stats", "")],
    "conv_mma.cu": [("conv2d", "mma"), ("conv2d_input_grad", "mma"), ("upsample_conv2d", "phase_mma")],
    "conv_mma_bfloat16.cu": [],
    "conv_mma_float.cu": [("conv2d", "mma_tf32"), ("conv2d_input_grad", "mma_tf32")],
    "conv_mma_half.cu": [("conv2d", "mma"), ("conv2d_input_grad", "mma"), ("upsample_conv2d", "gather_mma")],
    "block_parts.cu": [("inverted_residual", "parts"), ("depthwise_pointwise", "parts")],
    "combine.cu": [],  # of network plans, which tests run and no case of an operator
    "device.cu": [],
    "elementwise.cu": [("activation", "")],
    "im2col.cu": [("im2col", ""), ("col2im", "")],
    "model.cu": [],
    "phases_wgmma.cu": [("conv2d_input_grad", "wgmma"), ("upsample_conv2d", "phase_wgmma")],
    "pooling.cu": [
        ("max_pool2d", ""),
        ("avg_pool2d", ""),
        ("adaptive_avg_pool2d", ""),
        ("adaptive_max_pool2d", ""),
    ],
    "pooling_grad.cu": [("max_pool2d", ""), ("avg_pool2d", "")],
    "reductions.cu": [("channel_sum", "")],
    "softmax.cu": [("softmax", "")],
    "upsample.cu": [("upsample_nearest2d", "")],
    "wgmma_support.cu": [],
}

_ROW = re.compile(r'\bconst Algorithm<(\w+)> k\w+ = \{\s*"(\w+)"')


def served(unit: str, text: str) -> list[tuple[str, str]]:
    """What the file of that name and text serves: the rows it defines, or what OTHERS says."""
    rows = [(op, match[2]) for match in _ROW.finditer(text) for op in OPERATORS[match[1]]]
    if not rows and unit not in OTHERS:
        raise SystemExit(f"mutation: {unit} defines no algorithm, and OTHERS in targets.py does not list it")
    return rows or OTHERS[unit]
