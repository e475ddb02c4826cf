"""Small networks for the tests of pruning: each has one structure that decides which channels can be left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from networks import BasicBlock, InvertedResidual, SqueezeExcite, UNet
from torch import Tensor, nn


def chain(padding: int = 1, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 5, 3, padding=padding))


def classifier() -> nn.Sequential:
    """Several features of the linear layer belong to each channel."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1), nn.SiLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 4),
    )  # fmt: skip


def grouped(groups: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=groups), nn.Conv2d(16, 4, 1))


def transposed(groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(), nn.ConvTranspose2d(8, 8, 3, 2, groups=groups),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip


class Twice(nn.Module):
    """One convolution called with two inputs, and its weight used by a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.shared(F.relu(self.first(x))))
        y = F.relu(self.shared(y))
        return self.last(F.conv2d(y, self.shared.weight, None, padding=1))


class Dense(nn.Module):
    """Each layer reads everything before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.stem(x)]
        for layer in self.layers:
            seen.append(torch.tanh(layer(torch.cat(seen, 1))))
        return self.head(torch.cat(seen, dim=-3).mean((2, 3)))


class NormsFirst(nn.Module):
    """BatchNorm and activation before each convolution, also of what is concatenated or added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norms = nn.Conv2d(3, 6, 3), nn.ModuleList(nn.BatchNorm2d(c) for c in (6, 6, 12))
        self.a, self.b, self.c = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x + self.a(F.relu(self.norms[0](x)))
        z = self.b(torch.tanh(self.norms[1](y)))
        return self.c(F.relu(self.norms[2](torch.cat([z, y], 1))))


class Outputs(nn.Module):
    """What is returned keeps all channels, though nothing in the network may read them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        return {"a": a, "c": self.c(b)}


class AsksForChannels(nn.Module):
    """Reads the number of channels, mixes channels, and views with numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x)) / 8
        x = F.softmax(self.b(x), dim=1) * x.shape[1] ** 0.5
        return self.c(F.adaptive_avg_pool2d(x, 4).reshape(x.size(0), 8 * 16))


class ViewsRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.leaky_relu(self.a(x)), (1, 1, 1, 1), mode="reflect")
        x = F.interpolate(self.b(x), scale_factor=2.0)
        return self.c(F.adaptive_max_pool2d(x, 2).reshape(x.size(0), -1))


class SqueezeView(nn.Module):
    """Squeeze and excitation with linear layers, whose views ask for the number of channels."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
        self.scale = nn.Parameter(torch.randn(8)) if odd else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.a(x)))
        n, c, _, _ = x.size()
        y = self.fc(F.adaptive_avg_pool2d(x, 1).view(n, c))
        y = self.b(x * y.view(n, c, 1, 1).expand_as(x))
        # A view of something else by that number: then all channels have to be there to be counted.
        return y if self.scale is None else y + self.scale.view(1, c, 1, 1).sum()


NETWORKS: dict[str, Callable[[], Any]] = {
    "chain": chain,
    "chain_without_padding": lambda: chain(0),
    "prelu": lambda: chain(1, lambda: nn.PReLU(8)),
    "sigmoid": lambda: chain(1, nn.Sigmoid),
    "classifier": classifier,
    "grouped": grouped,
    "depthwise_multiplier": lambda: grouped(8),
    "transposed": transposed,
    "transposed_grouped": lambda: transposed(4),
    "twice": Twice,
    "dense": Dense,
    "norms_first": NormsFirst,
    "outputs": Outputs,
    "asks_for_channels": AsksForChannels,
    "views_rows": ViewsRows,
    "residual": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), BasicBlock(6, 6), BasicBlock(6, 8, 2)),
    "inverted_residual": InvertedResidual,
    "squeeze_excite": SqueezeExcite,
    "squeeze_view": SqueezeView,
    "squeeze_view_odd": lambda: SqueezeView(True),
    "u_net": UNet,
}
