"""What training programs do around the layers: checkpointing, accumulation, mixed precision, hooks, frozen parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits import NETWORKS, Residual, digits, made, replaced
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastconv

Report = list[Tensor]


def batch(size: int = 32) -> tuple[Tensor, Tensor]:
    x, y, *_ = digits()
    return x[:size].clone(), y[:size]


def grads(model: nn.Module) -> Report:
    return [p.grad for p in model.parameters() if p.grad is not None]


def judge(run: Callable[[nn.Module], Report], name: str = "resnet", rtol: float = 1e-3, atol: float = 2e-5) -> None:
    """The same program on both networks gives the same tensors."""
    ours, theirs = run(replaced(name)), run(made(name))
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_checkpointing(name: str, reentrant: bool) -> None:
    """Equal to torch's, and to the same network without it; the statistics move once more, as torch's do."""

    def run(model: Any, segments: bool = True) -> Report:
        x, y = batch()
        x.requires_grad_()
        z = checkpoint_sequential(model, 2, x, use_reentrant=reentrant) if segments else model(x)
        F.cross_entropy(z, y).backward()
        return [x.grad, *grads(model)]  # type: ignore[list-item]

    judge(run, name)
    for mine, other in zip(run(replaced(name)), run(replaced(name), False), strict=True):
        torch.testing.assert_close(mine, other)


def test_checkpointing_of_fused_blocks() -> None:
    block = fastconv.nn.ConvBNAct2d(1, 8, 3, act="prelu")
    x, _ = batch()
    found = []
    for kept in (True, False):
        block.zero_grad()
        y = block(x) if kept else checkpoint(block, x, use_reentrant=False)
        y.square().mean().backward()
        found.append([g.clone() for g in grads(block)])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


def test_gradient_accumulation() -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch(48)
        for images, labels in zip(x.split(16), y.split(16), strict=True):
            (F.cross_entropy(model(images), labels) / 3).backward()
        return grads(model)

    judge(run)


@pytest.mark.parametrize("to_none", [True, False])
def test_zeroing_gradients(to_none: bool) -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        losses = []
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    judge(run)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scaled", [False, True], ids=["bf16", "scaler"])
def test_mixed_precision(name: str, scaled: bool) -> None:
    """Under autocast ours are as near to float64 as torch's are."""

    def run(model: nn.Module, exact: bool = False) -> Report:
        x, y = batch()
        scaler = torch.amp.GradScaler("cpu", enabled=scaled and not exact, init_scale=128.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        if exact:
            model, x = model.double(), x.double()
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            z = model(x)
            loss = F.cross_entropy(z, y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert all(g.dtype == p.dtype for g, p in zip(grads(model), model.parameters(), strict=True))
        assert exact or z.dtype == torch.bfloat16
        return [loss.detach(), *grads(model)]

    ours, theirs, truth = run(replaced(name)), run(made(name)), run(made(name), exact=True)
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == other.dtype
        limit = 2 * (other - exact).norm() + 1e-2 * exact.norm() + 1e-6
        assert (mine - exact).norm() <= limit


def test_training_in_bfloat16() -> None:
    def run(model: nn.Module, dtype: torch.dtype) -> Report:
        x, y = batch()
        model = model.to(dtype)
        loss = F.cross_entropy(model(x.to(dtype)), y)
        loss.backward()
        return [loss.detach(), *grads(model)]

    for name in NETWORKS:
        runs = (run(replaced(name), torch.bfloat16), run(made(name), torch.bfloat16), run(made(name), torch.float64))
        for mine, other, exact in zip(*runs, strict=True):
            assert mine.dtype == other.dtype
            assert (mine - exact).norm() <= 2 * (other - exact).norm() + 1e-2 * exact.norm() + 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_double_backward(name: str) -> None:
    """A penalty on the gradient: the derivative of a derivative through every layer."""

    def run(model: nn.Module) -> Report:
        x, y = batch(8)
        x.requires_grad_()
        (dx,) = torch.autograd.grad(F.cross_entropy(model(x), y), x, create_graph=True)
        dx.square().sum().backward()
        return [dx.detach(), *grads(model)]

    judge(run, name, rtol=5e-3, atol=1e-4)


def test_a_graph_used_twice() -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch()
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        return grads(model)

    judge(run)


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_layers(name: str) -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch()
        for part in list(model.children())[:4]:
            part.requires_grad_(False).eval()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        frozen = [not p.requires_grad for p in model.parameters()]
        assert any(frozen) and not all(frozen)
        for p, old, still in zip(model.parameters(), before, frozen, strict=True):
            assert not still or (torch.equal(p, old) and p.grad is None)
        return [p.detach() for p in model.parameters()]

    judge(run, name)


@pytest.mark.parametrize("only", ["input", "weight", "bias"])
def test_a_gradient_for_one_operand(only: str) -> None:
    def run(model: Any) -> Report:
        x, y = batch()
        model.requires_grad_(False)
        leaf = {"input": x, "weight": model[0].weight, "bias": model[-1].bias}[only].requires_grad_()
        return list(torch.autograd.grad(F.cross_entropy(model(x), y), leaf))

    judge(run, "cifar_style")


def test_hooks_on_tensors_and_modules() -> None:
    def run(model: Any) -> Report:
        x, y = batch()
        seen: Report = []
        model[0].weight.register_hook(lambda g: g * 2)
        model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        for module in (model[0], model[4]):
            module.register_full_backward_hook(lambda module, dx, dy: seen.append(dy[0].clone()))
        x.requires_grad_()
        z = model(x)
        z.register_hook(lambda g: g.clamp(-0.01, 0.01))
        F.cross_entropy(z, y).backward()
        return [*seen, x.grad, *grads(model)]  # type: ignore[list-item]

    judge(run, "cifar_style")


def test_anomaly_mode_names_the_layer() -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch()
        with torch.autograd.detect_anomaly(check_nan=True):
            F.cross_entropy(model(x), y).backward()
        return grads(model)

    with pytest.warns(UserWarning, match="Anomaly Detection"):
        judge(run)
    model = replaced("cifar_style")
    x, _ = batch()
    with pytest.warns(UserWarning), torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="nan values"):
        (model(x) * float("nan")).sum().backward()


@pytest.mark.parametrize("name", ["cifar_style"])
def test_an_empty_batch(name: str) -> None:
    def run(model: nn.Module) -> Report:
        x = torch.randn(0, 1, 8, 8, requires_grad=True)
        model(x).sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        return grads(model)

    judge(run, name)


def test_gradient_clipping_and_a_regulariser() -> None:
    def run(model: nn.Module) -> Report:
        x, y = batch()
        penalty = sum(p.abs().sum() for p in model.parameters())
        (F.cross_entropy(model(x), y) + 1e-3 * penalty).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        return [norm, *grads(model)]

    judge(run)


def test_weights_used_twice() -> None:
    """A shared module, and a module called twice: the gradients of both uses add up."""

    def run(_: nn.Module) -> Report:
        torch.manual_seed(2)
        shared = nn.Conv2d(4, 4, 3, padding=1)
        model: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 1), shared, nn.ReLU(), shared, Residual(4, 4, 1))
        if isinstance(_[0], fastconv.nn.Conv2d):  # type: ignore[index]
            model = fastconv.replace(model)
        x, _y = batch()
        model(model[0](x)[:, :1] + x).square().mean().backward()  # type: ignore[index]
        return grads(model)

    judge(run)
