"""Networks whose weights something of ours was made from (packed, folded, cast), and the same in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from networks import randomise
from torch import Tensor, nn

import fastconv
import fastconv.nn as fnn

# Channels enough that the kernels want the weights packed.
C, K = 16, 32


class Block(nn.Module):
    """The parts of a ConvBNAct2d under their names, one after the other."""

    def __init__(self, conv: nn.Module, bn: nn.Module | None, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.act = conv, bn, act

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y if self.bn is None else self.bn(y))


class Net(nn.Module):
    """Every kind of layer that has weights; two blocks that can be fused, one of them after an upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(nn.Conv2d(C, K, 3, padding=1), nn.BatchNorm2d(K), nn.PReLU(K))
        self.upsample = nn.Upsample(scale_factor=2)
        self.up = Block(nn.Conv2d(K, K, 3, padding=1, bias=False), nn.BatchNorm2d(K), nn.LeakyReLU(0.1))
        self.down = nn.ConvTranspose2d(K, K, 3, groups=2)
        self.depthwise = nn.Conv2d(K, K, 3, groups=K)
        self.prelu = nn.PReLU()
        self.fc = nn.Linear(K, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(self.block(x))
        x = self.prelu(self.depthwise(self.down(self.up(x))))
        return self.fc(x.mean((2, 3)))

    @property
    def parts(self) -> list[nn.Module]:
        return [self.block.conv, self.up.conv, self.down, self.depthwise, self.fc]


def net() -> Net:
    torch.manual_seed(1)
    made = randomise(Net())
    assert isinstance(made, Net)
    return made


def fused(model: Net) -> Net:
    """The two blocks as fastconv.nn's, under the same names."""
    block: Any = fnn.ConvBNAct2d.from_torch(model.block.conv, model.block.bn, model.block.act)
    up: Any = fnn.UpsampleConv2d.from_torch(model.upsample, model.up.conv, model.up.bn, model.up.act)
    model.block, model.up, model.upsample = block, up, nn.Identity()  # type: ignore[assignment]
    return model


# What to call, given a network; the network stays the one whose weights change.
HOLDERS: dict[str, Callable[[Net], Callable[[Tensor], Tensor]]] = {
    "replace": fastconv.replace,
    "fused": lambda model: fastconv.replace(fused(model)),
    "convert": fastconv.convert,
    "convert_replaced": lambda model: fastconv.convert(fastconv.replace(fused(model))),
}


class Pair:
    """One network in plain torch and its twin behind a holder, to be changed in the same way."""

    def __init__(self, holder: str) -> None:
        self.theirs = net()
        self.ours = copy.deepcopy(self.theirs)
        self.call = HOLDERS[holder](self.ours)

    @property
    def both(self) -> tuple[Net, Net]:
        return self.theirs, self.ours

    def check(self, x: Tensor) -> Tensor:
        """Ours equals the network in plain torch that has the weights of the moment; twice, since a cache may answer.

        The truth is not the twin's forward alone: it must have come to the weights that our network has now.
        """
        with torch.no_grad():
            expected = self.theirs(x)
            for _ in range(2):
                y = self.call(x)
                assert y.dtype == expected.dtype
                # Of the largest value: an output near 0 is a difference of large terms.
                close = {torch.float64: 1e-9, torch.float32: 1e-4}.get(y.dtype, 6e-2)
                torch.testing.assert_close(y, expected, atol=close * float(expected.abs().max()), rtol=0)
        return expected
