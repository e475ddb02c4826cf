"""torch.compile(model, backend="fastconv") where autograd records: torch's losses, gradients and statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from compiling import Block, Net, close, graphs
from torch import Tensor, nn

import fastconv
from fastconv import functional
from fastconv.compiler.backend import compiled_graphs


def _steps(model: Any, run: Any, batches: list[Tensor]) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for x in batches:
        optimizer.zero_grad()
        outputs = run(x)
        loss = outputs["scores"].square().mean() + outputs["map"].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def _functions(graph: Any) -> list[Any]:
    return [node.target for node in graph.one_for_one.graph.nodes if node.op == "call_function"]


def test_training_then_evaluation_follows_torch() -> None:
    ours = Net().train()
    theirs = copy.deepcopy(ours)
    compiled = torch.compile(ours, backend="fastconv", fullgraph=True)
    batches = [torch.randn(size, 3, 15, 15) for size in (4, 5, 6, 4)]
    torch.testing.assert_close(_steps(ours, compiled, batches), _steps(theirs, theirs, batches), rtol=1e-3, atol=1e-4)
    assert graphs() == 2  # the second is for any batch
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-4)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(batches[0]), theirs(batches[0]), rtol=1e-3, atol=1e-3)


def test_norms_take_the_addition_and_the_activation_with_them() -> None:
    block = Block(4).train()
    before = set(compiled_graphs)
    compiled = torch.compile(block, backend="fastconv", fullgraph=True)
    compiled(torch.randn(2, 4, 5, 5)).sum().backward()
    (graph,) = set(compiled_graphs) - before
    assert _functions(graph) == [functional.conv2d, functional.batch_norm_act] * 2
    last = [node for node in graph.one_for_one.graph.nodes if node.target is functional.batch_norm_act][-1]
    assert last.kwargs["act"] == "relu" and last.kwargs["residual"] is not None


class Kept(nn.Module):
    """Norms that must stay alone: read twice, added to another shape, overwritten in between."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, x: Tensor) -> Any:
        twice = self.norms[0](x)
        broadcast = torch_f.relu(self.norms[1](x) + x.mean((0, 2, 3), keepdim=True))
        late = self.norms[2](x)
        other = x * 2
        normal = self.norms[3](other)
        other.mul_(3)  # the norm has read it
        late = late + other
        doubled = self.norms[4](x)
        doubled = doubled + doubled
        return twice, torch_f.relu(twice), broadcast, torch_f.relu(normal), torch_f.relu(late), torch_f.relu(doubled)


def test_norms_that_must_stay_alone() -> None:
    ours = Kept()
    theirs = copy.deepcopy(ours)
    x = torch.randn(4, 3, 5, 5)
    compiled = torch.compile(ours, backend="fastconv", fullgraph=True)
    with torch.no_grad():  # batch statistics, nothing recorded
        close(compiled(x), theirs(x))
    close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_by_the_input_of_a_frozen_network(memory_format: Any) -> None:
    net = Net().eval().requires_grad_(False)
    compiled = torch.compile(net, backend="fastconv")
    x = torch.randn(2, 3, 15, 15).contiguous(memory_format=memory_format).requires_grad_()
    ours, theirs = (torch.autograd.grad(run(x)["scores"].square().sum(), x)[0] for run in (compiled, net))
    close(ours, theirs)


def test_double_backward() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3)).double()
    compiled = torch.compile(net, backend="fastconv", fullgraph=True)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)

    def penalty(run: Any) -> Any:
        (dx,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), list(net.parameters())[:3])

    close(penalty(compiled), penalty(net))


def test_checkpoints_inside_the_graph() -> None:
    block = Block(4).train()
    other = copy.deepcopy(block)

    def run(model: nn.Module, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum()

    x = torch.randn(2, 4, 5, 5)
    torch.compile(run, backend="fastconv", fullgraph=True)(block, x.clone()).backward()
    run(other, x.clone()).backward()
    torch.testing.assert_close(
        [p.grad for p in block.parameters()], [p.grad for p in other.parameters()], rtol=1e-3, atol=1e-4
    )


def test_autocast_and_switched_gradients_inside_the_graph() -> None:
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            features = conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            return head(torch.relu(conv(x) + features).mean((2, 3)))

    x = torch.randn(2, 3, 6, 6)
    results = []
    for call in (torch.compile(run, backend="fastconv", fullgraph=True), run):
        y = call(x)
        results.append((y, *torch.autograd.grad(y.float().sum(), [conv.weight, head.weight])))
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [False, True])
def test_a_replaced_network(training: bool) -> None:
    net = Net().train(training)
    ours = fastconv.replace(copy.deepcopy(net))
    compiled = torch.compile(ours, backend="fastconv", fullgraph=True)
    x = torch.randn(2, 3, 15, 15)
    with torch.set_grad_enabled(training):
        y, expected = compiled(x), net(x)
    close(y, expected)
    if training:
        pairs = (
            torch.autograd.grad(out["scores"].sum(), list(m.parameters()), allow_unused=True)
            for out, m in ((y, ours), (expected, net))
        )
        torch.testing.assert_close(*pairs, rtol=1e-3, atol=1e-4)
    explanation = fastconv.explain(compiled)
    layers = [row.operation for row in explanation.rows if row.served]
    if training:
        assert layers.count("conv2d") == 4 and "batch_norm_act" in layers
    else:
        assert layers.count("conv 3x3 +bn +residual +relu") == 1 and "upsample 2x2, conv 3x3 +silu" in layers


def test_explanations_say_what_is_left() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)).eval()
    compiled = torch.compile(net, backend="fastconv")
    assert not fastconv.explain(compiled).rows
    with torch.no_grad():
        compiled(torch.randn(2, 3, 6, 6))
    explanation = fastconv.explain(compiled)
    assert [row.operation for row in explanation.rows] == ["conv 3x3 +bn +relu", "group_norm"]
    assert "compiled by fastconv" in str(explanation) and [row.operation for row in explanation.left] == ["group_norm"]
