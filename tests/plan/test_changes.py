"""What a plan was made from changes: weights, statistics, the instruction set, the way it is called."""

from __future__ import annotations

import pytest
import torch
from planning import build, plan_of
from torch import nn

import fastconv
from fastconv import introspection

SHAPE = (2, 3, 16, 16)


def assert_follows(model: nn.Module, converted: nn.Module) -> None:
    x = torch.randn(SHAPE)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)


def _edit_weight(model: nn.Module) -> None:
    with torch.no_grad():
        model.stem.weight.mul_(2)


def _replace_weight(model: nn.Module) -> None:
    model.stem.weight = nn.Parameter(torch.randn_like(model.stem.weight))


def _edit_statistics(model: nn.Module) -> None:
    model.last.running_mean.add_(3)  # of a BatchNorm that no convolution takes over


def _replace_statistics(model: nn.Module) -> None:
    model.last.running_var = model.last.running_var * 4


def _load(model: nn.Module) -> None:
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})


@pytest.mark.parametrize("change", [_edit_weight, _replace_weight, _edit_statistics, _replace_statistics, _load])
def test_changed_weights(change: object) -> None:
    model = build("dense")
    converted = fastconv.convert(model, torch.randn(SHAPE))
    assert_follows(model, converted)
    change(model)  # type: ignore[operator]
    assert_follows(model, converted)
    assert plan_of(converted).kernel_count > 0


def test_a_training_step_between_calls() -> None:
    model = build("inception")
    converted = fastconv.convert(model, torch.randn(SHAPE))
    assert_follows(model, converted)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(SHAPE)).square().mean().backward()
    optimizer.step()
    assert_follows(model, converted)


def test_a_model_in_training_mode_converts_to_evaluation() -> None:
    model = build("dense")
    model.train()
    converted = fastconv.convert(model)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        ours = [converted(x) for _ in range(2)]
        assert model.training
        theirs = model.eval()(x)
    for y in ours:
        torch.testing.assert_close(y, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("keep_isa")
def test_another_instruction_set() -> None:
    model = build("dense")
    converted = fastconv.convert(model)
    for isa in introspection.available_isas():
        introspection.select_isa(isa)
        assert_follows(model, converted)


def test_a_forced_backend_and_autocast_go_step_by_step() -> None:
    model = build("inception")
    x = torch.randn(SHAPE)
    converted = fastconv.convert(model, x)
    with torch.no_grad():
        expected = converted(x)
        runs: list[int] = []
        plan = plan_of(converted)
        plan.runs[0].plan, kept = _Counting(plan.runs[0].plan, runs), plan.runs[0].plan
        with fastconv.backend("reference"):
            torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert converted(x).dtype is torch.bfloat16
        assert not runs
        converted(x)
        assert runs == [1]
        with fastconv.backend("cpu"):  # what serves it anyway
            converted(x)
        assert runs == [1, 1]
        plan.runs[0].plan = kept


class _Counting:
    def __init__(self, plan: object, runs: list[int]) -> None:
        self._plan, self._runs = plan, runs

    def run(self, *arguments: object) -> None:
        self._runs.append(1)
        self._plan.run(*arguments)  # type: ignore[attr-defined]


def test_hooks_see_their_calls() -> None:
    model = build("dense")
    converted = fastconv.convert(model, torch.randn(SHAPE))
    seen: list[str] = []
    handle = model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append("layer"))
    assert_follows(model, converted)
    assert len(seen) == 4  # twice by the model, twice by the conversion
    handle.remove()
    assert_follows(model, converted)
    assert len(seen) == 4


def test_data_dependent_shapes_between_segments() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x).permute(0, 2, 3, 1).reshape(-1, 4)
            return self.head(torch.masked_select(y, y[:, :1] > 0).view(-1, 4))

    model = Masked().eval()
    converted = fastconv.convert(model)
    for _ in range(4):  # another number of rows each time
        assert_follows(model, converted)


def test_half_precision() -> None:
    model = build("inception")
    converted = fastconv.convert(model, dtype=torch.bfloat16)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        first, again = converted(x), converted(x)
        assert plan_of(converted).runs
        assert torch.equal(first, again)
        torch.testing.assert_close(first.float(), model(x), rtol=0.05, atol=0.05)
