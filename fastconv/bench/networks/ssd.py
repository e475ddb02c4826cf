"""SSD300 on VGG-16 (Liu et al. 2015, arXiv 1512.02325): six feature maps, a pair of 3x3 heads on each."""

from __future__ import annotations

import torch
import torch.nn.functional as torch_f
from torch import nn

from fastconv.bench.networks.vgg import WIDTHS

# Of the six maps: channels, and default boxes at each pixel. At 300x300 they make 8732 boxes.
_MAPS = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))
# The layers behind fc7: channels in, hidden, out, and stride and padding of the 3x3.
_EXTRAS = ((1024, 256, 512, 2, 1), (512, 128, 256, 2, 1), (256, 128, 256, 1, 0), (256, 128, 256, 1, 0))


class ScaledNorm(nn.Module):
    """Divides each pixel by its Euclidean norm over the channels, then scales by a learned factor a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch_f.normalize(x) * self.weight[:, None, None]


class SSD300(nn.Module):
    """The raw predictions: (boxes, 4) offsets and (boxes, classes) scores of every image, nothing decoded."""

    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        self.classes = classes
        self.conv4 = nn.Sequential(*_stages(3, WIDTHS[:4]))
        self.norm4 = ScaledNorm(512)
        self.fc7 = nn.Sequential(
            nn.MaxPool2d(2), *_stages(512, WIDTHS[4:]), nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.extras = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True),
                nn.Conv2d(hidden, filters, 3, stride, pad), nn.ReLU(inplace=True),
            )
            for channels, hidden, filters, stride, pad in _EXTRAS
        )  # fmt: skip
        self.offsets = nn.ModuleList(nn.Conv2d(channels, 4 * boxes, 3, padding=1) for channels, boxes in _MAPS)
        self.scores = nn.ModuleList(nn.Conv2d(channels, classes * boxes, 3, padding=1) for channels, boxes in _MAPS)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv4(x)
        maps = [self.norm4(x)]
        x = self.fc7(x)
        maps.append(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        offsets = [_rows(head(y), 4) for head, y in zip(self.offsets, maps, strict=True)]
        scores = [_rows(head(y), self.classes) for head, y in zip(self.scores, maps, strict=True)]
        return torch.cat(offsets, 1), torch.cat(scores, 1)


def _stages(channels: int, stages: tuple[tuple[int, ...], ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index, widths in enumerate(stages):
        if index:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 75 pixels make 38
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return layers


def _rows(y: torch.Tensor, columns: int) -> torch.Tensor:
    """(N, boxes * columns, H, W) -> (N, H * W * boxes, columns)."""
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, columns)


def ssd300_vgg() -> nn.Module:
    """SSD300 for the 21 classes of PASCAL VOC, randomly initialised."""
    return SSD300()
