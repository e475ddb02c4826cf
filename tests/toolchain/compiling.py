"""Networks and helpers for tests of captured graphs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn
from torch._dynamo.utils import counters


class Block(nn.Module):
    """A residual block as most write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x
        return self.relu(y)


class Net(nn.Module):
    """Everything that the backend fuses, a dict of outputs, and a view by the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.PReLU(8)
        self.block = Block(8)
        self.up = nn.Upsample(scale_factor=2)
        self.conv = nn.Conv2d(8, 4, 3)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(4, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.act(self.norm(self.stem(torch_f.pad(x, (0, 1, 0, 1)))))
        y = self.block(torch_f.max_pool2d(y, 2))
        y = torch_f.silu(self.conv(self.up(y)))
        features = y.mean((2, 3)).view(x.shape[0], -1)
        return {"map": y, "scores": self.head(self.drop(features))}


def graphs() -> int:
    """How many graphs Dynamo has captured since `fresh()`."""
    return counters["stats"]["unique_graphs"]


def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
