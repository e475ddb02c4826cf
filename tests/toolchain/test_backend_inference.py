"""torch.compile(model, backend="fastconv") for inference: fused, never stale, one graph for every batch."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiling import Block, Net, close, graphs
from torch import Tensor, nn

import fastconv
from fastconv.compiler import fastconv_backend
from fastconv.compiler.backend import CompiledGraph, compiled_graphs
from fastconv.convert import ir, lower
from fastconv.convert.steps import Stale


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


def _graph_of(*parameters: Tensor) -> CompiledGraph:
    """The one whose weights these are."""
    wanted = {id(p) for p in parameters}
    found = [
        graph
        for graph in compiled_graphs
        if graph.converted is not None
        and any(wanted <= {id(ref()) for _, ref in b._refs} for b in graph.converted.bindings())
    ]
    assert len(found) == 1
    return found[0]


def _specs(graph: CompiledGraph) -> list[Any]:
    """What its steps compute, where it has one set of weights."""
    (binding,) = graph.converted.bindings()
    return [node.meta["spec"] for node in binding.program.graph.nodes if "spec" in node.meta]


@torch.no_grad()
def test_streams_are_ordered_behind_the_weights(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the streams of a GPU."""
    reads: list[int] = []

    class Made:
        def read(self, tensors: Callable[[], list[Tensor]]) -> None:
            reads.append(len(tensors()))

    monkeypatch.setattr(lower, "made_here", lambda devices: [Made()])
    compiled, x = torch.compile(net, backend="fastconv", fullgraph=True), torch.randn(2, 3, 15, 15)
    for _ in range(3):
        compiled(x)
    assert len(reads) == 3
    assert all(reads)


@torch.no_grad()
def test_a_graph_whose_weights_are_gone_runs_unfused(net: nn.Module) -> None:
    compiled, x = torch.compile(net, backend="fastconv", fullgraph=True), torch.randn(2, 3, 15, 15)
    compiled(x)
    graph = _graph_of(net.conv.weight)

    def gone(_: Any) -> Any:
        raise Stale("a weight is gone")

    graph.converted = gone
    close(compiled(x), net(x))
    assert graph.converted is None and graph.why == "a weight is gone"


@torch.no_grad()
def test_a_network_is_fused_into_one_kernel_a_layer(net: nn.Module) -> None:
    compiled = torch.compile(net, backend="fastconv", fullgraph=True)
    x = torch.randn(2, 3, 15, 15)
    close(compiled(x), net(x))
    specs = _specs(_graph_of(net.head.weight))
    stem, pool, first, second, last, head = specs
    assert stem.padding == (1, 2, 1, 2) and len(stem.norms) == 1 and stem.act.name == "prelu"
    assert isinstance(pool, ir.Pool)
    assert first.act.name == second.act.name == "relu" and second.residual and not first.residual
    assert last.upsample == (2, 2) and last.act.name == "silu"
    assert isinstance(head, ir.Linear)


@torch.no_grad()
@pytest.mark.parametrize("marked", [False, True], ids=["automatic", "marked"])
def test_batch_sizes_share_a_graph(net: nn.Module, marked: bool) -> None:
    compiled = torch.compile(net, backend="fastconv", fullgraph=True)
    for batch in (2, 3, 5, 8):
        x = torch.randn(batch, 3, 15, 15)
        if marked:
            torch._dynamo.mark_dynamic(x, 0)
        close(compiled(x), net(x))
    assert graphs() == (1 if marked else 2)


@torch.no_grad()
def test_the_layout_is_the_models(net: nn.Module) -> None:
    compiled = torch.compile(net, backend="fastconv")
    x = torch.randn(2, 3, 15, 15)
    for form in (x, x.contiguous(memory_format=torch.channels_last)):
        assert compiled(form)["map"].stride() == net(form)["map"].stride()


def _train(net: nn.Module, x: Tensor) -> None:
    net.train()
    net(x)
    net.eval()


CHANGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "in place": lambda net, x: net.block.conv1.weight.mul_(0.5),
    "running statistics in place": lambda net, x: net.norm.running_mean.add_(1),
    "training of the original": _train,
    "load_state_dict": lambda net, x: net.load_state_dict(Net().state_dict()),
    "another parameter": lambda net, x: setattr(net.block.conv2, "weight", nn.Parameter(torch.randn(8, 8, 3, 3))),
    "another buffer": lambda net, x: setattr(net.norm, "running_var", torch.full((8,), 3.0)),
    "another storage": lambda net, x: net.conv.weight.set_(net.conv.weight * 2),
    "PReLU's slopes": lambda net, x: net.act.weight.add_(0.3),
    "the other instruction set": lambda net, x: fastconv.introspection.select_isa("scalar"),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_weights_is_seen(net: nn.Module, change: str, keep_isa: None) -> None:
    compiled = torch.compile(net, backend="fastconv")
    x = torch.randn(2, 3, 15, 15)
    before = compiled(x)["scores"]
    CHANGES[change](net, x)
    close(compiled(x), net(x))
    assert graphs() <= 2
    if "instruction" not in change:
        assert not torch.allclose(before, net(x)["scores"], rtol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizers_step_is_seen(net: nn.Module, fused: bool) -> None:
    compiled = torch.compile(net, backend="fastconv")
    optimizer = torch.optim.SGD(net.parameters(), 0.5, fused=fused)
    x = torch.randn(2, 3, 15, 15)
    for _ in range(2):
        with torch.no_grad():
            close(compiled(x), net(x))
        net(x)["scores"].square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        close(compiled(x), net(x))


@torch.no_grad()
def test_statistics_without_a_count_of_batches_are_compared() -> None:
    mean, var, weight = torch.zeros(4), torch.ones(4), nn.Parameter(torch.randn(4, 3, 3, 3))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight
            self.register_buffer("mean", mean)
            self.register_buffer("var", var)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.conv2d(x, self.weight)
            return nn.functional.batch_norm(y, self.mean, self.var)

    net = Own()
    compiled = torch.compile(net, backend="fastconv")
    x = torch.randn(2, 3, 5, 5)
    close(compiled(x), net(x))
    torch.nn.functional.batch_norm(torch.randn(9, 4, 2, 2) + 3, mean, var, training=True)
    assert mean.any() and not mean._version  # torch changed it and says nothing
    close(compiled(x), net(x))


@torch.no_grad()
def test_blocks_of_one_class_keep_their_weights_apart() -> None:
    blocks = nn.Sequential(*(Block(4).eval() for _ in range(3)))
    compiled = [torch.compile(block, backend="fastconv") for block in blocks]
    for _ in range(2):
        for x in (torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)):
            y = x
            for block in compiled:
                y = block(y.clone())
            close(y, blocks(x.clone()))
    assert graphs() == 1
    assert len(_graph_of(blocks[0].conv1.weight).converted.bindings()) == 3


@torch.no_grad()
def test_nothing_keeps_a_model_alive(net: nn.Module) -> None:
    other = copy.deepcopy(net)
    compiled = torch.compile(other, backend="fastconv")
    compiled(torch.randn(2, 3, 15, 15))
    dead = weakref.ref(other.head.weight)
    graph = _graph_of(other.head.weight)
    del other, compiled
    gc.collect()
    assert dead() is None and not graph.converted.bindings()


@torch.no_grad()
def test_modes_around_the_call(net: nn.Module) -> None:
    compiled = torch.compile(net, backend="fastconv")
    x = torch.randn(2, 3, 15, 15)
    with torch.inference_mode():
        close(compiled(x), net(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(x)["map"]
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(x)["map"], rtol=0.05, atol=0.05)
    with fastconv.backend("reference"):
        close(compiled(x), net(x))


def test_graphs_of_modules() -> None:
    """Dynamo has made them of modules, not of functions and parameters, and could be asked to."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    traced = torch.fx.symbolic_trace(net)
    output = traced.graph.output_node()
    output.args = (tuple(output.args),)
    x = torch.randn(2, 3, 5, 5)
    for training in (True, False, True):
        net.train(training)
        expected = copy.deepcopy(net)
        run = fastconv_backend(torch.fx.GraphModule(net, traced.graph), [x])
        assert (run.converted is None) == training
        for _ in range(2):
            with torch.set_grad_enabled(training):
                close(run(x)[0], expected(x))
            for model in (net, expected):
                model[0].weight.data = model[0].weight + 0.1
        close(dict(net.named_buffers()), dict(expected.named_buffers()))


@torch.no_grad()
def test_what_has_no_kernel_runs_as_torch() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv3d, self.norm = nn.Conv3d(2, 3, 2), nn.GroupNorm(1, 3)
            self.wave = nn.Parameter(torch.randn(4, 3, 2, 2, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Any:
            y = self.norm(self.conv3d(x)).mean(2)
            z = torch.nn.functional.conv2d(y.to(torch.complex64), self.wave)
            return torch.nn.functional.max_pool2d((y * 9).to(torch.int32), 2), z, x.shape[0]

    net, x = Other(), torch.randn(2, 2, 3, 6, 6)
    close(torch.compile(net, backend="fastconv", fullgraph=True)(x), net(x))


@torch.no_grad()
def test_weights_that_are_arguments() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        return torch.relu(torch.nn.functional.conv2d(x, w, padding=1))

    compiled = torch.compile(run, backend="fastconv", fullgraph=True)
    for _ in range(3):
        x, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
        close(compiled(x, w), run(x, w))


@torch.no_grad()
def test_graph_breaks_and_writes_to_the_input() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)

    def run(x: Tensor) -> Tensor:
        x.relu_()
        y = conv(x)
        if y.sum() > 0:
            return conv(y) + x
        return conv(-y)

    compiled = torch.compile(run, backend="fastconv")
    for seed in range(4):
        torch.manual_seed(seed)
        ours = torch.randn(1, 3, 5, 5)
        theirs = ours.clone()
        close(compiled(ours), run(theirs))
        assert torch.equal(ours, theirs)


def test_it_is_registered_once() -> None:
    assert "fastconv" in torch._dynamo.list_backends()
    assert torch._dynamo.lookup_backend("fastconv") is fastconv_backend
    fastconv.compiler.register()


@pytest.mark.parametrize("wrong", [{"mode": "max-autotune"}, {"options": {"threads": 1}}], ids=str)
def test_options_are_refused(net: nn.Module, wrong: Any) -> None:
    with pytest.raises(Exception, match=r"torch.compile\(backend='fastconv'\): expected (mode|options)"):
        torch.compile(net, backend="fastconv", **wrong)(torch.randn(2, 3, 15, 15))
