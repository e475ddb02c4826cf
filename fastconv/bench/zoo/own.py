"""Networks written here, for traits that the collections lack: detection heads with anchors, several inputs,
dictionaries, parametrized and pruned layers, control flow on data."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from fastconv.bench.networks.resnet import resnet18
from fastconv.bench.zoo.network import Size, ZooNetwork


def conv(c: int, k: int, side: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    return nn.Sequential(nn.Conv2d(c, k, side, stride, side // 2, bias=False), nn.BatchNorm2d(k), act())


class SSD(nn.Module):
    """Single-shot detection: boxes and scores from four scales, one scale normalised by its length (Liu 2016)."""

    anchors = (4, 6, 6, 4)

    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        self.classes = classes
        widths = (32, 64, 64, 64)
        self.base = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2, ceil_mode=True))
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, k, 3, 1, 6, dilation=6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
            if index == 1
            else conv(c, k, stride=1 if index == 0 else 2)
            for index, (c, k) in enumerate(zip((32, *widths), widths, strict=False))
        )
        self.length = nn.Parameter(torch.full((32,), 20.0))
        self.boxes = nn.ModuleList(nn.Conv2d(k, a * 4, 3, padding=1) for k, a in zip(widths, self.anchors, strict=True))
        self.scores = nn.ModuleList(
            nn.Conv2d(k, a * classes, 3, padding=1) for k, a in zip(widths, self.anchors, strict=True)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        x = self.base(x)
        for scale in self.scales:
            x = scale(x)
            features.append(x)
        features[0] = F.normalize(features[0], dim=1) * self.length.view(1, -1, 1, 1)
        n = x.size(0)
        boxes = [
            head(f).permute(0, 2, 3, 1).contiguous().view(n, -1, 4)
            for head, f in zip(self.boxes, features, strict=True)
        ]
        scores = [
            head(f).permute(0, 2, 3, 1).reshape(n, -1, self.classes)
            for head, f in zip(self.scores, features, strict=True)
        ]
        return {"boxes": torch.cat(boxes, dim=1), "scores": torch.cat(scores, dim=1).softmax(dim=-1)}


class CSP(nn.Module):
    """Two paths of which one has bottlenecks, joined (Wang 2019)."""

    def __init__(self, c: int, k: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.left, self.right = conv(c, k // 2, 1, act=nn.SiLU), conv(c, k // 2, 1, act=nn.SiLU)
        self.units = nn.ModuleList(
            nn.Sequential(conv(k // 2, k // 2, 1, act=nn.SiLU), conv(k // 2, k // 2, act=nn.SiLU)) for _ in range(depth)
        )
        self.join = conv(k, k, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x)
        for unit in self.units:
            y = y + unit(y) if self.shortcut else unit(y)
        return self.join(torch.cat((y, self.right(x)), dim=1))


class YOLO(nn.Module):
    """One-stage detection: pixels to channels, pyramid pooling, feature pyramid by nearest upsampling, boxes decoded
    on a grid (Redmon 2018, Ge 2021)."""

    def __init__(self, classes: int = 20, c: int = 16) -> None:
        super().__init__()
        self.classes = classes
        self.focus = conv(12, c, act=nn.SiLU)
        self.stage1 = nn.Sequential(conv(c, 2 * c, stride=2, act=nn.SiLU), CSP(2 * c, 2 * c, 1))
        self.stage2 = nn.Sequential(conv(2 * c, 4 * c, stride=2, act=nn.SiLU), CSP(4 * c, 4 * c, 2))
        self.reduce = conv(4 * c, 2 * c, 1, act=nn.SiLU)
        self.pools = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in (5, 9))
        self.after = conv(6 * c, 2 * c, 1, act=nn.SiLU)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = CSP(4 * c, 2 * c, 1, shortcut=False)
        self.heads = nn.ModuleList(nn.Conv2d(2 * c, 3 * (5 + classes), 1) for _ in range(2))
        self.register_buffer("anchors", torch.tensor([[10.0, 13], [16, 30], [33, 23]]).view(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1)
        fine = self.stage1(self.focus(x))
        low = self.reduce(self.stage2(fine))
        low = self.after(torch.cat([low, *(pool(low) for pool in self.pools)], dim=1))
        high = self.merge(torch.cat([self.up(low), fine], dim=1))
        raw, decoded = [], []
        for stride, feature, head in zip((4, 8), (high, low), self.heads, strict=True):
            y = head(feature)
            n, _, h, w = y.shape
            y = y.view(n, 3, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2).contiguous()
            raw.append(y)
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((columns, rows), dim=2).view(1, 1, h, w, 2).to(y)
            s = y.sigmoid()
            centre, extent = (s[..., :2] * 2 - 0.5 + grid) * stride, (s[..., 2:4] * 2) ** 2 * self.anchors
            decoded.append(torch.cat((centre, extent, s[..., 4:]), dim=-1).view(n, -1, 5 + self.classes))
        return torch.cat(decoded, dim=1), raw


class MultiTask(nn.Module):
    """Hard parameter sharing: one trunk, heads for segments, depth and attributes; a second input of numbers."""

    def __init__(self, c: int = 24) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict(stem=conv(3, c, stride=2), body=conv(c, 2 * c, stride=2), last=conv(2 * c, 2 * c))
        )
        self.numbers = nn.Sequential(nn.Linear(5, 2 * c), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.segments = nn.Sequential(
            nn.ConvTranspose2d(2 * c, c, 4, 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(c, 6, 2, 2),
        )  # fmt: skip
        self.depth = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(2 * c, 1, 3, padding=1), nn.Softplus())
        self.attributes = nn.Linear(4 * c, 10)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Any]:
        shared = self.trunk(image)
        context = self.numbers(numbers)
        pooled = F.adaptive_avg_pool2d(shared, 1).view(image.size(0), -1)
        conditioned = shared * torch.sigmoid(context)[:, :, None, None]
        return {
            "segments": self.segments(conditioned),
            "depth": self.depth(shared),
            "attributes": F.log_softmax(self.attributes(torch.cat((pooled, context), dim=1)), dim=1),
            "embedding": (pooled, context),
        }


class Change(nn.Module):
    """Change between two photographs: the same encoder called on both."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.first, self.second = conv(3, c, stride=2), conv(c, 2 * c, stride=2)
        self.decode = nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), conv(2 * c, c), nn.Dropout2d(0.2))
        self.out = nn.Conv2d(2 * c, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        a1, b1 = self.first(before), self.first(after)
        a2, b2 = self.second(a1), self.second(b1)
        low = self.decode(torch.abs(a2 - b2))
        y = self.out(torch.cat((low, torch.abs(a1 - b1)), dim=1))
        return y, torch.pairwise_distance(a2.flatten(1), b2.flatten(1))


class SuperResolution(nn.Module):
    """Wide activation, weight_norm as a parametrization, pixel shuffle, a long skip (Yu 2018)."""

    def __init__(self, c: int = 16, depth: int = 3) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.head = norm(nn.Conv2d(3, c, 3, padding=1))
        self.units = nn.ModuleList(
            nn.Sequential(
                norm(nn.Conv2d(c, 4 * c, 3, padding=1)), nn.ReLU(True), norm(nn.Conv2d(4 * c, c, 3, padding=1))
            )
            for _ in range(depth)
        )
        self.tail = nn.Sequential(norm(nn.Conv2d(c, 12, 3, padding=1)), nn.PixelShuffle(2))
        self.skip = nn.Sequential(norm(nn.Conv2d(3, 12, 5, padding=2)), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        for unit in self.units:
            y = y + 0.5 * unit(y)
        return self.tail(y) + self.skip(x)


class Discriminator(nn.Module):
    """Of an adversarial pair: spectral_norm as a parametrization, leaky ReLU, sums over the image (Miyato 2018)."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        norm, widths = parametrizations.spectral_norm, (3, c, 2 * c, 4 * c)
        self.convs = nn.ModuleList(norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in itertools.pairwise(widths))
        self.score = norm(nn.Linear(4 * c, 1))
        self.classes = nn.Embedding(10, 4 * c)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        x = x.sum(dim=(2, 3))
        return self.score(x).squeeze(1) + (self.classes(labels) * x).sum(dim=1)


class EarlyExit(nn.Module):
    """Leaves at the first branch that is sure enough: control flow on data, which no graph holds (Teerapittayanon
    2016). Its parts are captured one by one."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, c, stride=2), conv(c, 2 * c, stride=2), conv(2 * c, 4 * c, stride=2)])
        self.exits = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(k, 10)) for k in (c, 2 * c, 4 * c)
        )

    def forward(self, x: Tensor) -> Tensor:
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            y = leave(x)
            if float(y.softmax(dim=1).amax(dim=1).min()) > 0.99:
                break
        return y


def pruned() -> nn.Module:
    """ResNet-18 with a third of every filter's weights pruned, and in places whole filters: masks stay on."""
    model = resnet18()
    for index, module in enumerate(model.modules()):
        if isinstance(module, nn.Conv2d):
            prune.random_unstructured(module, "weight", amount=0.3)
            if index % 3 == 0:
                prune.ln_structured(module, "weight", amount=0.25, n=2, dim=0)
    return model


def _two_images(batch: int, size: Size, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (
        torch.randn(batch, 3, *size, generator=generator),
        torch.randn(batch, 3, *size, generator=generator),
    )


def _image_and_numbers(batch: int, size: Size, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, *size, generator=generator), torch.randn(batch, 5, generator=generator))


def _image_and_labels(batch: int, size: Size, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, *size, generator=generator), torch.randint(10, (batch,), generator=generator))


_S, _L = (64, 64), (256, 256)
NETWORKS = (
    ZooNetwork("ssd", "fastconv", "SSD head: four scales, permute and view, dict output", SSD, _L, _S),
    ZooNetwork("yolo", "fastconv", "YOLO head: space to depth, nearest upsampling, grid decoded", YOLO, _L, _S),
    ZooNetwork("multi_task", "fastconv", "two inputs, three heads on one trunk, nested dict", MultiTask, _L, _S,
               inputs=_image_and_numbers),
    ZooNetwork("change", "fastconv", "two inputs, one encoder called twice, tuple output", Change, _L, _S,
               inputs=_two_images),
    ZooNetwork("super_resolution", "fastconv", "weight_norm parametrization, pixel shuffle", SuperResolution,
               (96, 96), (32, 32)),
    ZooNetwork("discriminator", "fastconv", "spectral_norm parametrization, leaky ReLU in place, labels",
               Discriminator, _L, _S, inputs=_image_and_labels),
    ZooNetwork("early_exit", "fastconv", "control flow on data that cannot be captured", EarlyExit, _L, _S),
    ZooNetwork("pruned_resnet18", "fastconv", "torch.nn.utils.prune: masks, zeroed filters", pruned, (224, 224), _S),
)  # fmt: skip
