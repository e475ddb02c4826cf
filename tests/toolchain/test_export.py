"""torch.export of networks on our layers: any batch, saved and loaded, decomposed, and compiled ahead of time."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import Net, close
from torch import nn
from torch.export import Dim, export

import fastconv


def _replaced() -> nn.Module:
    return fastconv.replace(copy.deepcopy(Net())).eval()


def _targets(program: Any) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [False, True])
def test_any_batch_after_saving_and_loading(strict: bool, tmp_path: Path) -> None:
    net = _replaced()
    program = export(net, (torch.randn(2, 3, 15, 15),), dynamic_shapes={"x": {0: Dim("batch")}}, strict=strict)
    assert {"fastconv.conv2d.default", "fastconv.gemm.default"} <= _targets(program)
    assert not any("aten.conv" in target for target in _targets(program))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 15, 15)
        close(loaded(x), net(x))


def test_decompositions_leave_our_operators() -> None:
    net = _replaced()
    x = torch.randn(2, 3, 15, 15)
    program = export(net, (x,)).run_decompositions()
    assert "fastconv.conv2d.default" in _targets(program)
    close(program.module()(x), net(x))


def test_a_converted_network_exports_as_its_model() -> None:
    net = Net().eval()
    x = torch.randn(2, 3, 15, 15)
    program = export(fastconv.convert(net, (x,)), (x,))
    assert not any("fastconv" in target for target in _targets(program))
    close(program.module()(x), net(x))


def test_what_is_exported_trains() -> None:
    net = nn.Sequential(fastconv.nn.Conv2d(3, 4, 3), fastconv.nn.PReLU(4))
    module = export(net, (torch.randn(2, 3, 6, 6),)).module()
    x = torch.randn(2, 3, 6, 6)
    ours = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    theirs = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    assert len(ours) == 3
    for a in ours:
        assert any(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for b in theirs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_ahead_of_time_package(tmp_path: Path) -> None:
    """Compiled once; run by another process, which has to import fastconv for its operators."""
    net = fastconv.replace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6()).eval())
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        program = export(net, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "net.pt2"))
        images = torch.randn(5, 3, 6, 6)
        torch.save((images, net(images)), tmp_path / "expected.pt")
    code = (
        "import sys, torch, fastconv\n"
        "run = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "x, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(run(x), expected)"
    )
    subprocess.run([sys.executable, "-c", code, package, str(tmp_path / "expected.pt")], check=True)
