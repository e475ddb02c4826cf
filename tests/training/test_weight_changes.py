"""Every way in which weights change, against everything that was made from them: never a stale fold or pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from holders import HOLDERS, C, K, Net, Pair, net
from networks import randomise
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, update_bn

pytestmark = pytest.mark.usefixtures("fresh_cache")
each_holder = pytest.mark.parametrize("holder", HOLDERS)


def other_state() -> dict[str, Tensor]:
    """A state_dict of other values."""
    state = randomise(net(), seed=9).state_dict()
    return {key: value * 1.25 + 0.1 if value.is_floating_point() else value for key, value in state.items()}


def set_gradients(model: nn.Module) -> None:
    """The same gradient for the same parameter of every network."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def step_of(kind: Any, **options: Any) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        set_gradients(model)
        kind(model.parameters(), **options).step()

    return change


def forward_in_training(model: Net) -> None:
    """The running statistics move; torch moves them without a new version."""
    generator = torch.Generator().manual_seed(4)
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 16, 5, 5, generator=generator) * 2 + 1)
    model.eval()


def training_step(model: Net) -> None:
    generator = torch.Generator().manual_seed(5)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(4, 16, 5, 5, generator=generator)).square().mean().backward()
    optimizer.step()
    model.eval()


def in_place(model: Net) -> None:
    with torch.no_grad():
        for part in model.parts:
            part.weight.mul_(1.5)
            if part.bias is not None:
                part.bias.add_(0.5)
        model.block.bn.running_var.mul_(3)
        model.up.bn.weight.neg_()
        model.block.act.weight.sub_(1)


def one_element(model: Net) -> None:
    with torch.no_grad():
        for part in model.parts:
            part.weight.view(-1)[-1] = 30.0


def in_inference_mode(model: Net) -> None:
    with torch.inference_mode():
        for part in model.parts:
            part.weight.copy_(part.weight * 1.5)
        model.up.bn.running_mean.add_(1)


def through_a_view(model: Net) -> None:
    for part in model.parts:
        part.weight.detach()[1].zero_()
        part.weight.detach().view(-1).add_(0.1)


def load(model: Net) -> None:
    model.load_state_dict(other_state())


def load_and_assign(model: Net) -> None:
    model.load_state_dict(other_state(), assign=True)


def load_partly(model: Net) -> None:
    state = {key: value for key, value in other_state().items() if "weight" in key}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert missing


def new_parameters(model: Net) -> None:
    for part in model.parts:
        part.weight = nn.Parameter(part.weight.detach() * 2)
    model.up.conv.bias = nn.Parameter(torch.linspace(-1, 1, K))
    model.fc.bias = None
    model.block.act.weight = nn.Parameter(torch.linspace(0, 1, K))


def new_data(model: Net) -> None:
    """Other memory behind the same Parameter: an address, but no version."""
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5


def new_buffers(model: Net) -> None:
    model.block.bn.running_mean = torch.linspace(-1, 1, K)
    model.up.bn.running_var = torch.linspace(1, 2, K)


def flattened(model: Net) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 1.5, model.parameters())


def initialised(model: Net) -> None:
    torch.manual_seed(6)
    for part in model.parts:
        part.reset_parameters()
    model.block.bn.reset_parameters()


def functional_init(model: Net) -> None:
    for part in model.parts:
        nn.init.constant_(part.weight, 0.01)


def clipped(model: Net) -> None:
    """Max-norm regularisation as people write it."""
    with torch.no_grad():
        for part in model.parts:
            part.weight.copy_(torch.renorm(part.weight, 2, 0, 0.1))


def swapped(model: Net) -> None:
    """torch's other way to convert and to load: the parameters exchange their contents with new ones."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
        in_place(model)
        model.float()
        model(torch.zeros(1, C, 5, 5))
        model.load_state_dict(other_state())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def double_and_back(model: Net) -> None:
    model.double()
    in_place(model)
    model.float()


def channels_last(model: Net) -> None:
    model.to(memory_format=torch.channels_last)
    in_place(model)


def averaged(model: Net) -> None:
    """An exponential moving average whose weights are copied back, and its statistics measured anew."""
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for _ in range(2):
        step_of(torch.optim.SGD, lr=0.5)(model)
        average.update_parameters(model)
    generator = torch.Generator().manual_seed(7)
    update_bn([torch.randn(4, 16, 5, 5, generator=generator) for _ in range(3)], model)
    model.load_state_dict(average.module.state_dict())
    model.eval()


def statistics_anew(model: Net) -> None:
    generator = torch.Generator().manual_seed(8)
    update_bn([torch.randn(4, 16, 5, 5, generator=generator) for _ in range(3)], model)
    model.eval()


def pruned(model: Net) -> None:
    for part in model.parts:
        prune.l1_unstructured(part, "weight", 0.5)


def pruned_and_removed(model: Net) -> None:
    pruned(model)
    for part in model.parts:
        prune.remove(part, "weight")


class Flipped(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.flip(0) * 0.5


def parametrized(model: Net) -> None:
    for part in model.parts:
        parametrize.register_parametrization(part, "weight", Flipped())


def weight_norm(model: Net) -> None:
    for part in model.parts:
        parametrizations.weight_norm(part)
    with torch.no_grad():
        model.block.conv.parametrizations.weight.original0.mul_(2)


def new_modules(model: Net) -> None:
    torch.manual_seed(9)
    model.block.bn = randomise(nn.BatchNorm2d(K), seed=2)
    model.fc = nn.Linear(K, 4)
    model.up.act = nn.Hardswish()


def hyperparameters(model: Net) -> None:
    model.block.bn.eps = 0.5
    model.up.act.negative_slope = 0.7


CHANGES: tuple[Callable[[Net], None], ...] = (
    forward_in_training, training_step, in_place, one_element, in_inference_mode, through_a_view, load,
    load_and_assign, load_partly, new_parameters, new_data, new_buffers, flattened, initialised, functional_init,
    clipped, swapped, double_and_back, channels_last, averaged, statistics_anew, pruned, pruned_and_removed,
    parametrized, weight_norm, new_modules, hyperparameters,
)  # fmt: skip
OPTIMIZERS: dict[str, Callable[[Net], None]] = {
    "sgd": step_of(torch.optim.SGD, lr=0.5),
    "sgd_momentum": step_of(torch.optim.SGD, lr=0.5, momentum=0.9),
    "sgd_foreach": step_of(torch.optim.SGD, lr=0.5, foreach=True),
    "sgd_fused": step_of(torch.optim.SGD, lr=0.5, fused=True),
    "adam": step_of(torch.optim.Adam, lr=0.5),
    "adam_foreach": step_of(torch.optim.Adam, lr=0.5, foreach=True),
    "adam_fused": step_of(torch.optim.Adam, lr=0.5, fused=True),
    "adamw_fused": step_of(torch.optim.AdamW, lr=0.5, fused=True),
    "adagrad_fused": step_of(torch.optim.Adagrad, lr=0.5, fused=True),
    "rmsprop": step_of(torch.optim.RMSprop, lr=0.05),
}


def judge(holder: str, change: Callable[[Net], None]) -> None:
    pair = Pair(holder)
    x = torch.randn(2, 16, 5, 5)
    before = pair.check(x)
    for model in pair.both:
        change(model)
    x = x.to(pair.ours.fc.weight.dtype) if hasattr(pair.ours.fc, "weight") else x
    after = pair.check(x)
    assert before.shape != after.shape or (before - after).abs().max() > 1e-3  # else a stale weight would pass


@each_holder
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights(holder: str, change: Callable[[Net], None]) -> None:
    judge(holder, change)


@each_holder
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_steps(holder: str, optimizer: str) -> None:
    judge(holder, OPTIMIZERS[optimizer])
