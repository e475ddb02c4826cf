"""What the zoo knows about a network: where it comes from, what is special about it, and which inputs it takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.bench.networks.randomise import calibrate

# Python module that a package installs -> what to tell pip.
PACKAGES = {
    "pytorchcv": "--no-deps pytorchcv",
    "transformers": "transformers",
    "monai": "monai einops",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
}

Size = tuple[int, int]


class MissingPackage(ImportError):
    """The collection that a network comes from is not installed; the text says how to install it."""


def image(batch: int, size: Size, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A batch of colour images, the argument of most networks."""
    return (torch.randn(batch, 3, *size, generator=generator),)


@dataclass(frozen=True)
class ZooNetwork:
    """One architecture: `make` builds the module as its authors wrote it, at a published or a small width."""

    name: str
    source: str  # the package that the code comes from, "fastconv" for our own
    traits: str  # what a conversion has to get right in it
    make: Callable[[], nn.Module]
    size: Size = (224, 224)  # images for timing
    small: Size = (224, 224)  # images for tests: as small as the network takes
    fixed: bool = False  # takes no other image size
    inputs: Callable[[int, Size, torch.Generator], tuple[Any, ...]] = image

    def build(self, small: bool = False) -> nn.Module:
        """The network with random weights and statistics, the same at each call.

        Raises:
            MissingPackage: its package is not installed.
        """
        self.require()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make().requires_grad_(False)
            return calibrate(model, self.example(1, self.small if small else self.size, seed=1))

    def example(self, batch: int, size: Size, seed: int) -> tuple[Any, ...]:
        """The arguments of a call."""
        return self.inputs(batch, size, torch.Generator().manual_seed(seed))

    def other_size(self, size: Size) -> Size:
        """A second image size, not square, or the same one where the network takes no other."""
        return size if self.fixed else (size[0], size[1] + 32)

    def missing(self) -> str | None:
        """How to install the package that it needs, where that is not there."""
        if self.source == "fastconv" or importlib.util.find_spec(self.source) is not None:
            return None
        return f"pip install {PACKAGES[self.source]}"

    def require(self) -> None:
        """
        Raises:
            MissingPackage: its package is not installed.
        """
        if command := self.missing():
            raise MissingPackage(f"zoo: {self.name} needs {self.source}, which is not installed: {command}")
