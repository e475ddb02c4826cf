"""Darknet-53, the classifier behind YOLOv3 (Redmon & Farhadi 2018, arXiv 1804.02767)."""

from __future__ import annotations

import torch
from torch import nn

from fastconv.bench.networks.mobilenet import Classifier, conv_bn


def _layer(channels: int, filters: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return conv_bn(channels, filters, kernel, stride, act=nn.LeakyReLU(0.1, inplace=True))


class DarknetBlock(nn.Module):
    """1x1 to half the channels, 3x3 back, and the sum with the input, without an activation behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_layer(channels, channels // 2, 1), *_layer(channels // 2, channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def darknet53() -> nn.Module:
    """Darknet-53, randomly initialised."""
    layers, channels = _layer(3, 32, 3), 32
    for blocks in (1, 2, 8, 8, 4):
        layers += _layer(channels, 2 * channels, 3, 2)
        channels *= 2
        layers += [DarknetBlock(channels) for _ in range(blocks)]
    return Classifier(nn.Sequential(*layers), channels)
