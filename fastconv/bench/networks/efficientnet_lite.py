"""EfficientNet-Lite0: the packaged network with its ImageNet weights where installed, else the same layers here."""

from __future__ import annotations

from torch import nn

from fastconv.bench.networks.mobilenet import Classifier, InvertedResidual, conv_bn
from fastconv.demo.networks import MissingPackage, load_efficientnet_lite0


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with trained weights, or randomly initialised without the packages that carry them."""
    try:
        return load_efficientnet_lite0()
    except MissingPackage:
        return untrained_efficientnet_lite0()


def untrained_efficientnet_lite0() -> nn.Module:
    """The same shapes with symmetric padding.

    Source: Tan & Le 2019 (arXiv 1905.11946), without squeeze-and-excitation and with ReLU6, as the Lite variants are.
    """
    layers = conv_bn(3, 32, 3, 2, act=nn.ReLU6(inplace=True))
    channels = 32
    # (expansion, filters, repeats, stride, kernel)
    plan = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5))
    for expansion, filters, repeats, stride, kernel in (*plan, (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)):
        for index in range(repeats):
            layers.append(InvertedResidual(channels, filters, stride if index == 0 else 1, expansion, kernel))
            channels = filters
    layers += conv_bn(channels, 1280, 1, act=nn.ReLU6(inplace=True))
    return Classifier(nn.Sequential(*layers), 1280)
