"""Small networks in the styles that people write, with statistics that a wrong fold cannot hide in."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import tricky_networks as tricky
from torch import Tensor, nn

from fastconv.bench.networks.randomise import randomise as randomise


class BasicBlock(nn.Module):
    def __init__(self, c: int, k: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k)) if c != k else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.down is None else self.down(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        BasicBlock(8, 8),
        BasicBlock(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


class PreActivation(nn.Module):
    """The in-place ReLU writes to the tensor that the skip connection reads: the sum is with the activated one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv1, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(self.relu(x))
        y = self.conv2(F.relu(self.bn(y)))
        return y + x


class InvertedResidual(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, 2, 1)
        layers: list[nn.Module] = []
        for stage in (nn.Conv2d(c, 4 * c, 1, bias=False), nn.Conv2d(4 * c, 4 * c, 3, 1, 1, groups=4 * c, bias=False)):
            layers += [stage, nn.BatchNorm2d(4 * c, eps=1e-3), nn.ReLU6(inplace=True)]
        self.block = nn.Sequential(*layers, nn.Conv2d(4 * c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.block(x)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.reduce, self.expand = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        x = x * torch.sigmoid(x)
        s = F.adaptive_avg_pool2d(x, 1)
        s = self.expand(F.hardswish(self.reduce(s)))
        return self.project(torch.sigmoid(s) * x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2))
        self.enc2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2))
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ELU(0.7)
        )
        self.transposed, self.bn = nn.ConvTranspose2d(8, 8, 2, 2, groups=2), nn.BatchNorm2d(8)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enc1(x)
        low = self.enc2(F.max_pool2d(skip, 2))
        up = self.up(low)
        other = self.bn(self.transposed(F.max_pool2d(up, 2)))
        return self.out(torch.cat([skip, up + other], dim=1))


NETWORKS: dict[str, Any] = {
    "resnet": resnet,
    "pre_activation": PreActivation,
    "inverted_residual": InvertedResidual,
    "squeeze_excite": SqueezeExcite,
    "u_net": UNet,
    "shared_conv": tricky.SharedConv,
    "called_twice": tricky.CalledTwice,
    "aliases": tricky.Aliases,
    "views": tricky.Views,
    "prelus": tricky.PReLUs,
    "subclasses": tricky.subclasses,
    "zero_pads": tricky.ZeroPads,
    "branches": tricky.Branches,
    "broadcasts": tricky.Broadcasts,
    "asks_for_types": tricky.AsksForTypes,
    "sets_items": tricky.SetsItems,
}
