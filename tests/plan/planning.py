"""What the tests of plans share: small networks, and a converted one that goes step by step."""

from __future__ import annotations

from typing import Any

import torch
from networks import randomise
from torch import Tensor, nn

import fastconv
from fastconv.convert.plan import PlannedProgram


class Dense(nn.Module):
    """DenseNet's block: every layer reads all features before it."""

    def __init__(self, layers: int = 4, start: int = 8, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, start, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(start + i * growth), nn.ReLU(), nn.Conv2d(start + i * growth, 16, 1, bias=False),
                nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )  # fmt: skip
        self.last = nn.BatchNorm2d(start + layers * growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.relu(self.last(torch.cat(features, 1))).mean((2, 3))


class Growing(Dense):
    """The same with each concatenation made of the one before."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        for layer in self.layers:
            features = torch.cat([features, layer(features)], 1)
        return torch.relu(self.last(features)).mean((2, 3))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 12, 3, padding=1)
        self.c = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 5, padding=2), nn.ReLU())
        self.pool, self.d = nn.MaxPool2d(3, 1, 1), nn.Conv2d(28, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.cat([self.a(x), self.b(x).relu(), self.c(x)], 1))


class Shuffle(nn.Module):
    """Channels split into halves, and mixed by a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stem(x).chunk(2, dim=1)
        y = torch.cat([first, self.branch(second)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Gated(nn.Module):
    """A squeeze-and-excite gate, an addition that nothing takes over, a nearest upsampling and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.up, self.grow = nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        gate = torch.sigmoid(self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()))
        z = y * gate
        return (self.up(z) + self.grow(z)).softmax(1)


class PartLeft(nn.Module):
    """Something between the layers that no kernel of ours computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x).relu()
        z = torch.cumsum(y, 2)
        scores = self.c(self.b(z / 7).mean((2, 3)))
        return scores, y


class MobileBlock(nn.Module):
    def __init__(self, channels: int = 16, hidden: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.block(x)


BUILDERS: dict[str, Any] = {
    "dense": Dense,
    "growing": Growing,
    "inception": Inception,
    "shuffle": Shuffle,
    "gated": Gated,
    "part_left": PartLeft,
    "mobile": MobileBlock,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(5)
    return randomise(BUILDERS[name]()).eval()


def plan_of(converted: nn.Module) -> PlannedProgram:
    """The plan that the last call ran."""
    program = converted.region.last
    assert program is not None and program.plan is not None, "the call went step by step"
    return program.plan


def step_by_step(model: nn.Module) -> nn.Module:
    """The model converted, without plans."""
    converted = fastconv.convert(model)
    converted.region.store.plans_allowed = False
    return converted


def leaves(y: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(y)


def assert_equal(ours: Any, theirs: Any) -> None:
    """In every bit, and in shape, type and strides."""
    for y, z in zip(leaves(ours), leaves(theirs), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
        assert torch.equal(y, z)
