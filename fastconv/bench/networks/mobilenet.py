"""MobileNet (Howard et al. 2017, arXiv 1704.04861) and MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381)."""

from __future__ import annotations

import torch
from torch import nn


def conv_bn(
    channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> list[nn.Module]:
    """Convolution, BatchNorm and, where given, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
    ]
    return layers if act is None else [*layers, act]


class Classifier(nn.Module):
    """Features, global average, linear layer."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


def mobilenet() -> nn.Module:
    """MobileNet at width 1, randomly initialised."""
    layers = conv_bn(3, 32, 3, 2, act=nn.ReLU(inplace=True))
    channels = 32
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for filters, stride in plan:
        layers += conv_bn(channels, channels, 3, stride, channels, nn.ReLU(inplace=True))
        layers += conv_bn(channels, filters, 1, act=nn.ReLU(inplace=True))
        channels = filters
    return Classifier(nn.Sequential(*layers), channels)


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, 1x1 project without an activation, and a shortcut where shapes allow."""

    def __init__(self, channels: int, filters: int, stride: int, expansion: int, kernel: int = 3) -> None:
        super().__init__()
        hidden = channels * expansion
        layers = conv_bn(channels, hidden, 1, act=nn.ReLU6(inplace=True)) if expansion != 1 else []
        layers += conv_bn(hidden, hidden, kernel, stride, hidden, nn.ReLU6(inplace=True))
        layers += conv_bn(hidden, filters, 1)
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels == filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 at width 1, randomly initialised."""
    layers = conv_bn(3, 32, 3, 2, act=nn.ReLU6(inplace=True))
    channels = 32
    # (expansion, filters, repeats, stride), table 2 of the paper
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, filters, repeats, stride in plan:
        for index in range(repeats):
            layers.append(InvertedResidual(channels, filters, stride if index == 0 else 1, expansion))
            channels = filters
    layers += conv_bn(channels, 1280, 1, act=nn.ReLU6(inplace=True))
    return Classifier(nn.Sequential(*layers), 1280)
