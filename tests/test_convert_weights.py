"""fastconv.convert and weights that change: training, edits, casts, copies, hooks, pruning. Never a stale fold."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from converting import assert_close, assert_like, served
from networks import randomise, resnet
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from fastconv.convert import convert, ir


def _steps(model: nn.Sequential) -> Any:
    def optimiser() -> None:
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        sgd.step()

    def training_step() -> None:
        model.train()(torch.randn(4, 3, 8, 8))
        model.eval()

    def in_place() -> None:
        with torch.no_grad():
            model[0].weight.mul_(1.5)

    def load() -> None:
        model.load_state_dict(randomise(copy.deepcopy(model), seed=7).state_dict())

    def assign() -> None:
        model.load_state_dict(randomise(copy.deepcopy(model), seed=8).state_dict(), assign=True)

    def new_parameter() -> None:
        model[0].bias = nn.Parameter(torch.randn(6))

    def new_module() -> None:
        model[3] = nn.Conv2d(6, 2, 1)

    def through_half() -> None:
        model.half().float()

    def pruning() -> None:
        prune.l1_unstructured(model[0], "weight", 0.5)

    def parametrization() -> None:
        parametrize.register_parametrization(model[3], "weight", _Symmetric())

    return [optimiser, training_step, in_place, load, assign, new_parameter, new_module, through_half, pruning,
            parametrization]  # fmt: skip


class _Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + w.flip(0)


@pytest.mark.parametrize("index", range(10))
def test_weight_changes_are_noticed(index: int) -> None:
    torch.manual_seed(3)
    model = randomise(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.PReLU(), nn.Conv2d(6, 2, 1)))
    converted = convert(model)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = converted(x)
    _steps(model)[index]()
    with torch.no_grad():
        assert not torch.equal(before, converted(x))
    assert_close(model, converted, x)


def test_half_model_and_dtype() -> None:
    model = randomise(resnet())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        error = (copy.deepcopy(model).bfloat16()(x.bfloat16()).double() - exact).abs().max()
        narrow = convert(model, dtype=torch.bfloat16)(x)
        assert (narrow.double() - exact).abs().max() <= 2 * error
        converted = convert(model)
        converted(x)
        model.bfloat16()
        assert converted(x.bfloat16()).dtype is torch.bfloat16


def test_dtype_with_modules_left_to_torch() -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.LayerNorm(144))
    )
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(convert(model, dtype=torch.bfloat16)(x).float(), model(x), atol=0.1, rtol=0.1)


def test_copies_and_pickles_are_independent() -> None:
    model = randomise(resnet())
    converted = convert(model)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        y = converted(x)
        buffer = io.BytesIO()
        torch.save(converted, buffer)
        buffer.seek(0)
        twins = [copy.deepcopy(converted), torch.load(buffer, weights_only=False)]
        model[0].weight.mul_(2)
        for twin in twins:
            torch.testing.assert_close(twin(x), y)
        assert not torch.allclose(converted(x), y)
    assert converted.state_dict().keys() == model.state_dict().keys()
    converted.load_state_dict(twins[0].state_dict())
    with torch.no_grad():
        torch.testing.assert_close(converted(x), y)


def test_hooks_keep_running() -> None:
    model = randomise(resnet())
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, args, y: seen.append("conv"))
    model[4].register_forward_hook(lambda module, args, y: y * 2)
    converted = convert(model)
    x = torch.randn(1, 3, 32, 32)
    assert_like(model, converted, x)
    assert seen


def test_hook_on_the_model_itself() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model.register_forward_hook(lambda module, args, y: y + 1)
    assert_like(model, convert(model), torch.randn(1, 3, 6, 6))


def test_pruned_and_parametrized() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
    )
    prune.ln_structured(model[0], "weight", 0.5, n=1, dim=0)
    parametrize.register_parametrization(model[3], "weight", _Symmetric())
    model[5] = torch.nn.utils.weight_norm(model[5])
    randomise(model)
    converted = convert(model)
    assert_close(model, converted, torch.randn(1, 3, 9, 9))
    assert sum(isinstance(spec, ir.Conv) for spec in served(converted)) == 2
