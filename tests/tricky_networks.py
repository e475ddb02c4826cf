"""Networks that are each a trap for a conversion: aliases, shared modules, subclasses, shapes and types in the code."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedConv(nn.Module):
    """One convolution under two BatchNorms, and read once more without any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(self.a(self.conv(x))) + self.b(self.conv(x * 0.5)) + y.tanh() + self.a(y)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.block(self.block(x)) - x


class Aliases(nn.Module):
    """Writes that are read under other names: a view, the base of a view, a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        same = y
        y += 0.25
        half = y[:, :4]
        F.relu(half, inplace=True)
        z = self.conv2(y)
        left, right = z.chunk(2, dim=1)
        left.mul_(2.0)
        torch.relu_(right)
        return same, z, left + right


class WritesToInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.act(x))
        return y + x.mean()


class Views(nn.Module):
    """What VGG does after its last pool, and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.fc = nn.Linear(4 * 4 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        x = F.adaptive_max_pool2d(self.conv2(x), 4)
        return F.leaky_relu(self.fc(x.view(x.size(0), -1)), 0.1)


class PReLUs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.one = nn.Conv2d(3, 6, 3), nn.PReLU()
        self.conv2, self.each = nn.Conv2d(6, 5, 3), nn.PReLU(5)
        self.fc, self.last = nn.Linear(5, 9), nn.PReLU(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(self.conv2(self.one(self.conv1(x))))
        return self.last(self.fc(F.avg_pool2d(x, 4).mean((2, 3))))


class SameConv(nn.Conv2d):
    """TensorFlow's padding, computed from the size of the input, as EfficientNet ports have it."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.size()[-2:]
        kh, kw = self.weight.size()[-2:]
        pad_h = max((math.ceil(h / self.stride[0]) - 1) * self.stride[0] + kh - h, 0)
        pad_w = max((math.ceil(w / self.stride[1]) - 1) * self.stride[1] + kw - w, 0)
        if pad_h > 0 or pad_w > 0:
            x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean = w.mean(dim=(1, 2, 3), keepdim=True)
        w = (w - mean) / torch.sqrt(w.var(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def subclasses() -> nn.Module:
    return nn.Sequential(
        SameConv(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.Hardtanh(0.0, 6.0),
        StandardisedConv(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Sigmoid(),
        SameConv(8, 6, 4, 3, bias=False),
        nn.GELU(),
    )


class ZeroPads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv = nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 6, 3, 2, bias=False)
        self.bn, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding="same")
        self.reflect = nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(self.pad(x))).clamp(0, 6)
        padded = F.pad(x, (1, 0))
        return self.reflect(self.conv2(padded) + padded)


class SetsItems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        before = y.sum()
        y[:, 0] = 0.5
        y[..., :2] += 1
        return self.head(y) + before


class Pair(NamedTuple):
    boxes: Tensor
    scores: Tensor


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, scale: Tensor, flag: bool = False, other: Tensor | None = None) -> dict[str, Any]:
        y = torch.relu(self.bn(self.body(x)))
        if other is not None:
            y = y + other
        if flag:
            y = y * 2
        pair = Pair(self.a(y), self.b(y).softmax(dim=1))
        return {"pair": pair, "list": [y, y.mean((2, 3)) * scale], "none": None, "number": 3}


class Branches(nn.Module):
    """Control flow on data: cannot be captured, its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        head = self.heads[0] if float(y.mean()) > 1e6 else self.heads[1]
        return head(y)


class AsksForTypes(nn.Module):
    """Checks its arguments, as libraries do, and builds its output in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(3)])
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        if not isinstance(x, torch.Tensor) or x.shape[1] != 3:
            raise TypeError("expected an image")
        outputs: list[Tensor] = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = F.relu(norm(stage(x)))
            outputs.append(x)
        top = self.head(outputs.pop())
        for feature in reversed(outputs):
            top = F.interpolate(top, size=feature.shape[-2:], mode="nearest")
            outputs[0] = top + feature.mean(1, keepdim=True)
        return outputs


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)


class OwnFunction(nn.Module):
    """A function with a derivative of its own, called in the forward: fx cannot follow it, torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)
        self.up, self.conv2 = nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, padding=1)
        self.constant = torch.full((6, 1, 1), 0.5)

    def forward(self, x: Tensor, wide: bool = True) -> dict[str, Tensor | None]:
        y = self.act(self.bn(self.conv(x)))
        z = F.dropout(_Swish.apply(y), 0.5, self.training) * self.constant
        z += 1
        z = F.hardtanh_(self.conv2(self.up(z)), 0.0, 6.0) if wide else z
        return {"image": z, "pooled": F.adaptive_avg_pool2d(z, 1).flatten(1), "none": None}


class Broadcasts(nn.Module):
    """Additions that are no residuals: of another shape, of a number, of the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.shift = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.relu(self.gate(F.adaptive_avg_pool2d(x, 1)) + y) + self.shift
        z = self.conv(x)
        return torch.add(self.conv(x), y, alpha=2) + (z + z) + 1
