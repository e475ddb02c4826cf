"""torch.func over whole networks: replaced, converted and fused ones, their parameters as arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import fastconv


class Net(nn.Module):
    """Convolutions, BatchNorm, PReLU, pools and a linear layer, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.PReLU(6)
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.relu = nn.ReLU6()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.act(self.norm(self.stem(x))))
        y = self.relu(self.depthwise(y)) + y
        return self.head(self.mean(y).flatten(1))


@pytest.fixture
def net() -> nn.Module:
    return Net().double().eval()


def _images(*lead: int) -> Tensor:
    return torch.randn(*lead, 3, 6, 6, dtype=torch.float64)


def test_training_statistics_of_each_sample(net: nn.Module) -> None:
    """Running statistics that all samples share cannot move towards each of them; of each sample's own they can."""
    model = fastconv.replace(copy.deepcopy(net)).train()
    x, before = _images(3, 2), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="expected running_mean and running_var to be mapped by vmap"):
        vmap(model)(x)
    for name, value in model.state_dict().items():
        if "running" in name:
            assert torch.equal(value, before[name])
    buffers = {name: torch.stack([value] * 3) for name, value in model.named_buffers()}
    found = vmap(lambda b, x: functional_call(model, b, (x,)))(buffers, x)
    for index in range(3):
        torch.testing.assert_close(found[index], copy.deepcopy(net).train()(x[index]))


def test_gradients_of_each_sample(net: nn.Module) -> None:
    x, labels = _images(5), torch.randint(0, 4, (5,))

    def of(model: nn.Module) -> Any:
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

        def loss(parameters: Any, x: Tensor, label: Tensor) -> Tensor:
            scores = functional_call(model, (parameters, buffers), (x[None],))
            return nn.functional.cross_entropy(scores, label[None])

        return vmap(grad(loss), (None, 0, 0))(parameters, x, labels)

    torch.testing.assert_close(of(fastconv.replace(copy.deepcopy(net))), of(net))


@pytest.mark.parametrize("recording", [False, True])
def test_an_ensemble_in_one_call(net: nn.Module, recording: bool) -> None:
    x = _images(2)

    def of(model: nn.Module) -> Any:
        members = [copy.deepcopy(model) for _ in range(3)]
        for index, member in enumerate(members):
            for parameter in member.parameters():
                parameter.data.add_(index / 10)
        state = stack_module_state(members)
        return vmap(lambda p, b: functional_call(model, (p, b), (x,)))(*state)

    with torch.set_grad_enabled(recording):
        torch.testing.assert_close(of(fastconv.replace(copy.deepcopy(net))), of(net))


@pytest.mark.parametrize("recording", [False, True])
def test_a_converted_network(net: nn.Module, recording: bool) -> None:
    converted = fastconv.convert(net)
    x = _images(3, 2)
    with torch.set_grad_enabled(recording):
        torch.testing.assert_close(vmap(converted)(x), vmap(net)(x))
        torch.testing.assert_close(jvp(converted, (x[0],), (x[1],)), jvp(net, (x[0],), (x[1],)))
        torch.testing.assert_close(converted(x[0]), net(x[0]))  # nothing of the transforms is left behind


def test_a_converted_network_has_gradients_by_its_parameters(net: nn.Module) -> None:
    """Folded weights have none to give: zeros would come out."""
    x = _images(2)

    def of(model: nn.Module) -> list[Tensor]:
        found = grad(lambda p: functional_call(model, p, (x,)).square().sum())(dict(model.named_parameters()))
        return list(found.values())

    torch.testing.assert_close(of(fastconv.convert(net)), of(net))


def _blocks(net: Any) -> tuple[nn.Module, nn.Module]:
    plain = nn.Sequential(copy.deepcopy(net.stem), copy.deepcopy(net.norm), nn.SiLU())
    return fastconv.nn.ConvBNAct2d.from_torch(*copy.deepcopy(plain)), plain


@pytest.mark.parametrize("recording", [False, True])
def test_a_fused_block_in_evaluation(net: nn.Module, recording: bool) -> None:
    block, plain = (m.eval() for m in _blocks(net))
    x = _images(3, 2)
    with torch.set_grad_enabled(recording):
        torch.testing.assert_close(vmap(block)(x), vmap(plain)(x))
        torch.testing.assert_close(jvp(block, (x[0],), (x[1],)), jvp(plain, (x[0],), (x[1],)))


@torch.no_grad()
def test_a_fused_block_by_its_parameters(net: nn.Module) -> None:
    """Nothing of a transform is kept among the folded weights, and nothing of its tangents lost there."""
    x = _images(2)

    def of(model: nn.Module) -> Any:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        weights = {name: t for name, t in state.items() if t.is_floating_point()}
        moved = jvp(lambda p: functional_call(model, p, (x,)), (weights,), (weights,))[1]
        stacked = {name: torch.stack([t, 2 * t]) for name, t in weights.items()}
        return moved, vmap(lambda p: functional_call(model, p, (x,)))(stacked), model(x)

    block = _blocks(net)[0].eval()
    conv, norm = block.conv, block.bn
    spread = (-1, 1, 1)

    class Plain(nn.Module):
        """BatchNorm written out: torch's has no derivative by its statistics."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = conv, norm

        def forward(self, x: Tensor) -> Tensor:
            y, n = nn.functional.conv2d(x, self.conv.weight, self.conv.bias, padding=1), self.bn
            y = (y - n.running_mean.view(spread)) * (n.running_var + n.eps).rsqrt().view(spread)
            return nn.functional.silu(y * n.weight.view(spread) + n.bias.view(spread))

    torch.testing.assert_close(of(block), of(Plain()))


def test_a_fused_block_in_training(net: nn.Module) -> None:
    x = _images(4)

    def of(model: nn.Module) -> Any:
        state = dict(model.named_parameters()), dict(model.named_buffers())
        found = grad(lambda p, b: functional_call(model, (p, b), (x,)).square().sum())(*state)
        return list(found.values()), list(state[1].values())

    block, plain = (m.train() for m in _blocks(net))
    torch.testing.assert_close(of(block), of(plain))


def test_running_statistics_cannot_be_batched(net: nn.Module) -> None:
    """As in torch: where they are no arguments, vmap cannot write one value for each sample into them."""
    for block in _blocks(net):
        with pytest.raises(RuntimeError, match=r"vmap|batched"):
            vmap(block.train())(_images(3, 2))
