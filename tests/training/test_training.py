"""Networks on fastconv's layers learn as torch's do: the same first gradients, losses and accuracy, on real data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits import NETWORKS, digits, made, replaced, train
from torch import Tensor, nn

import fastconv
from fastconv.nn import ConvBNAct2d

pytest.importorskip("sklearn")

STEPS = 168  # six epochs


@pytest.mark.parametrize("name", NETWORKS)
def test_every_loss_is_torchs_in_float64(name: str) -> None:
    """Over three epochs, through every weight's updates: nothing is nearly right."""
    ours, theirs = (train(build(name), 84, torch.float64).losses for build in (replaced, made))
    assert ours[-1] < 0.7 * ours[0]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_track_torchs_to_the_same_accuracy(name: str) -> None:
    """In float32 a value that rounds to the other side of a ReLU's kink parts two runs for good, on average after some
    20 steps, torch's from float64's as ours. Before, they agree to rounding; after, they are as good."""
    ours, theirs = train(replaced(name), STEPS), train(made(name), STEPS)
    exact = torch.tensor(train(made(name), 3, torch.float64).losses)
    limit = 2 * (torch.tensor(theirs.losses[:3]) - exact).abs().max() + 1e-6
    assert ((torch.tensor(ours.losses[:3]) - exact).abs() <= limit).all()
    assert max(abs(a - b) for a, b in zip(ours.losses[:20], theirs.losses[:20], strict=True)) < 0.05
    late = [torch.tensor(run.losses[-28:]).mean() for run in (ours, theirs)]
    assert ours.losses[-1] < 0.2 * ours.losses[0] and abs(late[0] - late[1]) < 0.02
    assert theirs.accuracy > 0.93 and abs(ours.accuracy - theirs.accuracy) <= 0.0125  # 5 of 397 images


def gradients(model: nn.Module, form: torch.memory_format, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Of the first step: with respect to the images and every parameter."""
    x, y, *_ = digits()
    model = model.to(dtype).to(memory_format=form)
    image = x[:64].to(dtype).contiguous(memory_format=form).requires_grad_()
    return list(torch.autograd.grad(F.cross_entropy(model(image), y[:64]), [image, *model.parameters()]))


# Layout, and the share of the largest gradient that is forgiven. torch's BatchNorm, which a replaced network still has,
# sums more coarsely where the gradient arrives in channels_last; torch's pooling does not hand it on so, ours does.
FORMS = {"nchw": (torch.contiguous_format, 5e-7), "nhwc": (torch.channels_last, 1e-5)}


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_first_gradients_are_within_torchs_own_error(name: str, layout: str) -> None:
    form, share = FORMS[layout]
    truth = gradients(made(name), form, torch.float64)
    pairs = zip(gradients(replaced(name), form), gradients(made(name), form), strict=True)
    for number, ((mine, other), exact) in enumerate(zip(pairs, truth, strict=True)):
        limit = 2 * (other - exact).abs().max() + share * exact.abs().max()
        assert mine.shape == exact.shape and (mine - exact).abs().max() <= limit, f"gradient {number}"


def test_blocks_that_fuse_train_too() -> None:
    """The same network out of ConvBNAct2d: convolution, then statistics, normalisation and activation in one pass."""

    def fuse(model: nn.Module) -> nn.Module:
        stem: Any = model
        block = ConvBNAct2d.from_torch(stem[0], stem[1], stem[2])
        return nn.Sequential(block, nn.Identity(), nn.Identity(), *list(stem)[3:])

    ours = train(fuse(replaced("mobilenet")), 28, torch.float64)
    theirs = train(made("mobilenet"), 28, torch.float64)
    torch.testing.assert_close(torch.tensor(ours.losses), torch.tensor(theirs.losses), rtol=1e-7, atol=1e-9)


def test_running_statistics_after_training() -> None:
    models = replaced("resnet"), made("resnet")
    for model in models:
        train(model, 5)
    for (name, mine), theirs in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# ---- PReLU learns ----------------------------------------------------------------------------------------------------

ALPHAS: dict[str, Any] = {"scalar": 1, "channel": 6, "full": (6, 5, 7)}


@pytest.mark.parametrize("shape", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize("fused", [False, True], ids=["layer", "block"])
def test_alpha_learns(shape: Any, fused: bool) -> None:
    """Towards the slopes that made the data, by gradients that are those of the formula."""
    generator = torch.Generator().manual_seed(0)
    full = (shape,) if isinstance(shape, int) else shape
    goal = torch.rand(full, generator=generator) * 2 - 0.5
    act = fastconv.nn.PReLU(shape)
    conv, bn = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
    nn.init.dirac_(conv.weight)
    model = ConvBNAct2d.from_torch(conv, bn, act) if fused else act
    spread = goal.view(-1, 1, 1) if goal.dim() == 1 else goal
    optimizer = torch.optim.Adam([act.weight], 0.05)
    for step in range(150):
        x = torch.randn(8, 6, 5, 7, generator=generator)
        normal = F.batch_norm(x, None, None, training=True) if fused else x
        loss = (model(x) - torch.where(normal > 0, normal, spread * normal)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if not step:
            alpha = act.weight.detach().clone().requires_grad_()
            wide = alpha.view(-1, 1, 1) if alpha.dim() == 1 else alpha
            expected = (
                torch.where(normal > 0, normal, wide * normal) - torch.where(normal > 0, normal, spread * normal)
            ).square()
            (truth,) = torch.autograd.grad(expected.mean(), alpha)
            torch.testing.assert_close(act.weight.grad, truth, rtol=1e-4, atol=1e-6)
        optimizer.step()
    torch.testing.assert_close(act.weight.detach(), goal, rtol=0, atol=2e-2)


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 4, 2)], ids=str)
def test_alpha_gradcheck(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    alpha = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fastconv.functional.prelu, (x, alpha))
    assert torch.autograd.gradgradcheck(fastconv.functional.prelu, (x, alpha))


def test_copies_in_training_go_on_alike() -> None:
    """A checkpoint of weights and optimizer, loaded into a new network, goes on as the old one."""
    model = replaced("cifar_style")
    train(model, 5)
    twin = replaced("cifar_style")
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    assert train(model, 5).losses == train(twin, 5).losses
