"""fastconv.replace: the same model, on other kernels; nothing that held on to it may notice."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, randomise, resnet
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from tricky_networks import SameConv

import fastconv.nn as fnn
from fastconv.convert import explain, replace
from fastconv.convert.replace import reason_to_leave


class Inherits(nn.Conv2d):
    """A subclass that adds something and keeps the forward."""

    def double_weight(self) -> None:
        with torch.no_grad():
            self.weight.mul_(2)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + w.flip(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_outputs_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(NETWORKS[name]())
    ours = replace(copy.deepcopy(model))
    x = torch.randn(2, 3, 16, 16)
    # Writing to a chunk, or to what a ReLU returned, is an error of torch's own under autograd.
    differentiable = name not in ("aliases", "sets_items")
    with torch.set_grad_enabled(differentiable):
        y, expected = ours(x.clone()), model(x.clone())
    leaves = [(y, expected)] if isinstance(y, Tensor) else list(zip(y, expected, strict=True))
    for mine, theirs in leaves:
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        assert mine.stride() == theirs.stride()
    if not differentiable:
        return
    sum(a.square().sum() for a, _ in leaves).backward()  # type: ignore[union-attr]
    sum(b.square().sum() for _, b in leaves).backward()  # type: ignore[union-attr]
    for mine, theirs in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-2, rtol=1e-3)


def test_every_layer_is_swapped_once() -> None:
    model = resnet()
    ids = [id(parameter) for parameter in model.parameters()]
    keys = list(model.state_dict())
    assert replace(model) is model
    kinds = {type(module) for module in model.modules()}
    assert {fnn.Conv2d, fnn.Linear, fnn.ReLU, fnn.MaxPool2d, fnn.AdaptiveAvgPool2d} <= kinds
    assert not kinds & {nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d}
    replace(model)
    assert {type(module) for module in model.modules()} == kinds
    assert [id(parameter) for parameter in model.parameters()] == ids and list(model.state_dict()) == keys


def test_the_model_itself_may_be_a_layer() -> None:
    assert type(replace(nn.PReLU(3))) is fnn.PReLU


def test_hooks_and_sharing_stay() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    calls: list[str] = []
    shared.register_forward_hook(lambda module, args, y: calls.append("forward"))
    shared.register_full_backward_hook(lambda module, gx, gy: calls.append("backward"))
    replace(model)
    assert model[0] is model[2]
    model(torch.randn(1, 3, 4, 4)).sum().backward()
    assert sorted(calls) == ["backward"] * 2 + ["forward"] * 2


def test_pruning_before_and_after() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.5)
    x = torch.randn(1, 3, 5, 5)
    expected = model(x)
    replace(model)
    torch.testing.assert_close(model(x), expected)
    assert (model[0].weight == 0).sum() == 54
    prune.remove(model[0], "weight")
    prune.l1_unstructured(model[0], "weight", 0.75)
    torch.testing.assert_close(model(x), F.relu(F.conv2d(x, model[0].weight, model[0].bias)))


def test_parametrized_before_and_removed_after() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Inherits(4, 2, 1))
    for layer in model:
        parametrize.register_parametrization(layer, "weight", Symmetric())
    expected = copy.deepcopy(model)
    replace(model)
    assert isinstance(model[0], fnn.Conv2d) and isinstance(model[1], Inherits)
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(model(x), expected(x))
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is fnn.Conv2d
    torch.testing.assert_close(model(x), expected(x))


def test_subclasses_that_inherit_the_forward() -> None:
    model = replace(nn.Sequential(Inherits(3, 4, 3)))
    layer: Any = model[0]
    assert isinstance(layer, Inherits) and type(layer) is not Inherits and reason_to_leave(layer) is None
    assert not explain(model).left
    layer.double_weight()
    x = torch.randn(1, 3, 5, 5)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(twin(x), F.conv2d(x, layer.weight, layer.bias))
        assert type(twin[0]) is type(layer)


def test_layers_that_are_left_and_said_so() -> None:
    patched = nn.ReLU()
    patched.forward = lambda x: x + 1  # type: ignore[method-assign]
    model = nn.Sequential(
        SameConv(3, 4, 3), Scaled(4, 4), nn.LazyConv2d(3, 1), patched, nn.LayerNorm(4), nn.Conv2d(1, 1, 1)
    )
    kinds = [type(module) for module in model]
    replace(model)
    assert [type(module) for module in model][:5] == kinds[:5]
    text = str(explain(model))
    for reason in ("forward of its own", "lazy", "replaced on the object", "no such layer"):
        assert reason in text
    assert len(explain(model).left) == 5


def test_optimizer_and_state_dict_made_before() -> None:
    torch.manual_seed(0)
    model = randomise(resnet()).train()
    twin = copy.deepcopy(model)
    mine, theirs = (torch.optim.Adam(m.parameters(), 1e-3) for m in (model, twin))
    state = copy.deepcopy(model.state_dict())
    replace(model)
    for _ in range(3):
        x, target = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
        losses = []
        for m, optimizer in ((model, mine), (twin, theirs)):
            optimizer.zero_grad()
            torch.manual_seed(5)  # dropout
            loss = F.cross_entropy(m(x), target)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    model.load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_copies_and_pickles() -> None:
    model = replace(randomise(resnet()))
    x = torch.randn(1, 3, 32, 32)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert [type(a) for a in twin.modules()] == [type(a) for a in model.modules()]
        torch.testing.assert_close(twin(x), model(x))


def test_only_modules() -> None:
    with pytest.raises(TypeError, match=r"^replace: expected model to be a torch.nn.Module, but got int$"):
        replace(3)  # type: ignore[arg-type]
