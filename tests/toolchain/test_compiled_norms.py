"""BatchNorms in graphs of `torch.compile(backend="fastconv")`: by themselves, and with something beside their chain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv  # noqa: F401  registers the backend


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


ALONE: dict[str, Callable[[], nn.Module]] = {
    "alone": lambda: nn.Sequential(nn.BatchNorm2d(3)),
    "pre-activation": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
    "a convolution read twice": ReadTwice,
}


@pytest.mark.parametrize("name", ALONE)
def test_norms_that_no_convolution_takes_over(name: str) -> None:
    model = ALONE[name]().eval()
    fast, x = torch.compile(model, backend="fastconv", fullgraph=True), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        for parameter in model.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(fast(x), model(x))


class Beside(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.bn, self.kind = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), kind

    def forward(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        r = r * 1
        t = self.bn(self.conv(x))
        if self.kind == "statistics":
            seen = self.bn.running_mean.sum()
            return torch.relu(t), seen
        t = t + r
        if self.kind == "augmented":
            r /= 2
        elif self.kind == "positional":
            F.mish(r, True)
        elif self.kind == "out":
            torch.mul(r, 2, out=r)
        return torch.relu(t), r


@pytest.mark.parametrize("kind", ["nothing", "augmented", "positional", "out", "statistics"])
def test_training_with_something_beside_the_chain(kind: str) -> None:
    torch.manual_seed(0)
    model = Beside(kind).train()
    twin = copy.deepcopy(model)
    x, r = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 6, 6)
    for ours, theirs in zip(torch.compile(twin, backend="fastconv")(x, r), model(x, r), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_freed_address_does_not_pass_for_the_same_weight() -> None:
    model = nn.Conv2d(256, 256, 3).eval()
    fast, x = torch.compile(model, backend="fastconv"), torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
            model.double()
            model._apply(lambda t: t * 1.5)
            model.float()
