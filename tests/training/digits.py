"""Handwritten digits (scikit-learn's, 8x8 pixels), three small networks for them, and one way to train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastconv


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to learn from, then those to test with."""
    data = load_digits()
    x = (torch.from_numpy(data.images).float() / 16).unsqueeze(1)
    x = (x - x.mean()) / x.std()
    y = torch.from_numpy(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def cifar_style() -> nn.Module:
    """[INPUT - [CONV - RELU] * 2 - POOL] * 2 - FC."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.down = (
            nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k)) if c != k else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.down(x))


def resnet() -> nn.Module:
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    blocks = (Residual(16, 16, 1), Residual(16, 32, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _depthwise(c: int, k: int, stride: int) -> nn.Module:
    wide = 3 * c
    return nn.Sequential(
        nn.Conv2d(c, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
        nn.Conv2d(wide, k, 1, bias=False), nn.BatchNorm2d(k),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
    blocks = (_depthwise(16, 24, 2), _depthwise(24, 32, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"cifar_style": cifar_style, "resnet": resnet, "mobilenet": mobilenet}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def replaced(name: str) -> nn.Module:
    return fastconv.replace(made(name))


@dataclass
class Run:
    losses: list[float] = field(default_factory=list)
    first_gradients: list[Tensor] = field(default_factory=list)
    accuracy: float = 0.0


def train(model: nn.Module, steps: int, dtype: torch.dtype = torch.float32, rate: float = 0.1) -> Run:
    """SGD with momentum and a rate that falls to 0, on batches of 50: the same ones in the same order every time."""
    x, y, test_x, test_y = digits()
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(1)
    run = Run()
    while len(run.losses) < steps:
        for batch in torch.randperm(len(x), generator=generator).split(50)[: steps - len(run.losses)]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[batch].to(dtype)), y[batch])
            loss.backward()
            if not run.losses:
                run.first_gradients = [copy.deepcopy(p.grad) for p in model.parameters() if p.grad is not None]
            optimizer.step()
            falling.step()
            run.losses.append(loss.item())
    with torch.no_grad():
        run.accuracy = float((model.eval()(test_x.to(dtype)).argmax(1) == test_y).double().mean())
    return run
