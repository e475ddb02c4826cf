"""Modules on fastconv's kernels: torch's layers one for one, and blocks that run as one kernel in inference."""

from fastconv.nn.fused import ConvBNAct2d
from fastconv.nn.layers import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    ReLU6,
)
from fastconv.nn.sync import SyncBatchNorm
from fastconv.nn.upsample import UpsampleConv2d

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvBNAct2d",
    "ConvTranspose2d",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SyncBatchNorm",
    "UpsampleConv2d",
]
