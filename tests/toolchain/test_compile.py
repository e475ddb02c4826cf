"""torch.compile with torch's own backends over our functions and layers: whole graphs, few of them, torch's results."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compiling import Net, close, fresh, graphs
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastconv
from fastconv import functional


class Fused(nn.Module):
    """The blocks of fastconv.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.block = fastconv.nn.ConvBNAct2d(3, 8, 3, padding=1, act="relu6")
        self.up = fastconv.nn.UpsampleConv2d(8, 4, 3, padding=1, act="silu")
        self.transposed = fastconv.nn.ConvTranspose2d(4, 4, 2, 2)
        self.head = fastconv.nn.Linear(4, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.transposed(self.up(self.block(x)))
        return {"map": y, "scores": self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))}


def _network(name: str) -> nn.Module:
    return {"replaced": lambda: fastconv.replace(Net()), "fused": Fused}[name]()


def _gradients(model: nn.Module, outputs: Any) -> Any:
    loss = outputs["scores"].square().mean() + outputs["map"].mean()
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ["replaced", "fused"])
def test_whole_graphs_one_for_all_batches(name: str, training: bool) -> None:
    model = _network(name).train(training)
    other = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for batch in (2, 3, 5, 7):
        x = torch.randn(batch, 3, 12, 12)
        with torch.set_grad_enabled(training):
            y, expected = compiled(x), other(x)
        close(y, expected)
        if training:
            torch.testing.assert_close(_gradients(model, y), _gradients(other, expected), rtol=1e-3, atol=1e-4)
    close(model.state_dict(), other.state_dict())
    assert counter.frame_count <= 2


@torch.no_grad()
def test_weights_and_sizes_marked_dynamic_need_no_second_graph() -> None:
    model = _network("replaced").eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch, size in ((2, 12), (3, 16), (6, 20)):
        x = torch.randn(batch, 3, size, size)
        for axis in (0, 2, 3):
            torch._dynamo.mark_dynamic(x, axis)
        close(compiled(x), model(x))
        for parameter in model.parameters():
            parameter.mul_(0.9)
    assert graphs() == 1


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_inductor(training: bool) -> None:
    """Its generated code around our operators."""
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train(training)
    ours = fastconv.replace(conv)
    compiled = torch.compile(ours, fullgraph=True)
    x = torch.randn(2, 3, 6, 6)
    other = copy.deepcopy(ours)
    with torch.set_grad_enabled(training):
        y, expected = compiled(x) * 2, other(x) * 2
    close(y, expected)
    if training:
        pairs = (torch.autograd.grad(z.square().sum(), list(m.parameters())) for z, m in ((y, ours), (expected, other)))
        torch.testing.assert_close(*pairs, rtol=1e-3, atol=1e-4)


def test_compiled_transforms() -> None:
    """torch.func inside the compiled function."""
    x, w = torch.randn(4, 2, 5, 5), torch.randn(3, 2, 3, 3)

    def batched(x: Tensor, w: Tensor) -> Tensor:
        return torch.vmap(lambda image: functional.conv2d(image, w))(x)

    close(torch.compile(batched, backend="aot_eager", fullgraph=True)(x, w), batched(x, w))
    fresh()

    def slope(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.grad(lambda w: functional.conv2d(x, w).square().sum())(w)

    with pytest.raises(Exception, match="direct call of the registered operator"):
        torch.compile(slope, backend="aot_eager", fullgraph=True)(x, w)


@pytest.mark.parametrize("kind", ["inference_mode", "no_grad", "autocast"])
def test_modes_inside_and_outside(kind: str) -> None:
    modes = {
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }
    model = _network("fused").eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 12, 12)
    with modes[kind]():
        y, expected = compiled(x), model(x)
    assert y["scores"].dtype == expected["scores"].dtype
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02) if kind == "autocast" else close(y, expected)
