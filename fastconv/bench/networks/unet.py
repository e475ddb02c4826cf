"""A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with padding, BatchNorm, and nearest upsampling + 3x3
convolution where the paper has a transposed convolution (Odena et al. 2016: no checkerboards)."""

from __future__ import annotations

import torch
from torch import nn


def _conv(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]


def _pair(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(*_conv(channels, filters), *_conv(filters, filters))


class UNet(nn.Module):
    """A pair of convolutions at each resolution on the way down and, behind a concatenation with it, on the way up."""

    def __init__(self, widths: tuple[int, ...], channels: int = 3, classes: int = 1) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip((channels, *widths), widths, strict=False))
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.Sequential(nn.Upsample(scale_factor=2), *_conv(a, b)) for a, b in steps)
        self.up = nn.ModuleList(_pair(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for index, pair in enumerate(self.down):
            x = pair(self.pool(x) if index else x)
            skips.append(x)
        for enlarge, pair, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
            x = pair(torch.cat([skip, enlarge(x)], 1))
        return self.head(x)


def unet() -> nn.Module:
    """Four resolutions of 64 to 512 channels, randomly initialised."""
    return UNet((64, 128, 256, 512))
