"""fastconv.convert: the same outputs as the model, whatever style it is written in, and never a stale weight."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from converting import assert_like, served
from networks import NETWORKS, BasicBlock, randomise, resnet
from torch import Tensor, nn
from tricky_networks import ManyOutputs, OwnFunction, SameConv, WritesToInput

from fastconv.convert import convert, explain, ir


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_same_outputs(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(1)
    model = randomise(NETWORKS[name]())
    converted = convert(model)
    if layout is torch.channels_last and name == "views":
        pytest.skip("the model itself cannot view a channels_last tensor")
    for shape in ((2, 3, 16, 16), (1, 3, 24, 20), (3, 3, 16, 16)):
        if name == "u_net" or min(shape[2:]) >= 16:
            assert_like(model, converted, torch.randn(shape).contiguous(memory_format=layout))


@pytest.mark.parametrize("name", NETWORKS)
def test_example_inputs_and_channels_last_weights(name: str) -> None:
    torch.manual_seed(2)
    model = randomise(NETWORKS[name]())
    if name != "views":
        model = model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16)
    assert_like(model, convert(model, x), x)
    assert_like(model, convert(model, (x,)), x)


def test_everything_around_a_convolution_is_merged() -> None:
    model = randomise(resnet())
    converted = convert(model)
    converted(torch.randn(1, 3, 32, 32))
    convs = [spec for spec in served(converted) if isinstance(spec, ir.Conv)]
    assert [len(spec.norms) for spec in convs] == [1] * 6
    assert sorted(spec.act.name for spec in convs) == ["identity"] + ["relu"] * 5
    assert sum(spec.residual for spec in convs) == 2
    assert [type(spec).__name__ for spec in served(converted) if not isinstance(spec, ir.Conv)] == [
        "Pool",
        "Pool",
        "Linear",
    ]


@pytest.mark.parametrize("make", [lambda: nn.ReLU(), lambda: nn.ReLU6(), lambda: nn.LeakyReLU(0.3), lambda: nn.PReLU(),
                                  lambda: nn.PReLU(5), lambda: nn.SiLU(), lambda: nn.Hardswish(), lambda: nn.Sigmoid(),
                                  lambda: nn.Tanh(), lambda: nn.GELU(), lambda: nn.ELU(0.5), lambda: nn.Hardsigmoid(),
                                  lambda: nn.Hardtanh(0, 6)])  # fmt: skip
def test_activation_modules_are_merged(make: Any) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), make()))
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 8, 9))
    (spec,) = served(converted)
    assert spec.act.name != "identity"


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


MERGED: dict[str, Any] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "relu": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu6": F.relu6,
    "F.relu6 inplace": lambda x: F.relu6(x, True),
    "F.silu": F.silu,
    "x * sigmoid": lambda x: x * x.sigmoid(),
    "F.leaky_relu": F.leaky_relu,
    "F.leaky_relu slope": lambda x: F.leaky_relu(x, 0.2),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh inplace": lambda x: F.hardtanh(x, 0.0, 6.0, inplace=True),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp_": lambda x: x.clamp_(min=0, max=6),
    "clamp min": lambda x: torch.clamp(x, min=0),
    "torch.sigmoid": torch.sigmoid,
    "sigmoid_": lambda x: x.sigmoid_(),
    "F.tanh": F.tanh,
    "F.hardswish": F.hardswish,
    "F.hardsigmoid": F.hardsigmoid,
    "F.gelu": F.gelu,
    "F.elu": F.elu,
    "F.elu alpha": lambda x: F.elu(x, 0.3),
}


@pytest.mark.parametrize("name", MERGED)
def test_functional_activations_are_merged(name: str) -> None:
    model = _Function(MERGED[name]).eval()
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 8, 9))
    (spec,) = served(converted)
    assert isinstance(spec, ir.Conv) and spec.act.name != "identity"


OTHERS: dict[str, Any] = {
    "mish": F.mish,
    "softplus": F.softplus,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp_": lambda x: x.clamp_(-1, 1),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold inplace": lambda x: F.threshold(x, 0.1, 20.0, True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_stay(name: str) -> None:
    model = _Function(OTHERS[name]).eval()
    assert_like(model, convert(model), torch.randn(2, 3, 8, 9))


@pytest.mark.parametrize("scale", [2, 3, (1, 2), 2.0, (3.0, 2.0)])
def test_upsampling_is_merged(scale: Any) -> None:
    model = randomise(nn.Sequential(nn.Upsample(scale_factor=scale), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.ReLU()))
    converted = convert(model)
    assert_like(model, converted, torch.randn(2, 3, 5, 6))
    (spec,) = served(converted)
    assert spec.upsample != (1, 1) and spec.padding == (1, 1, 1, 1)
    for other in (nn.Upsample(scale_factor=1.5), nn.Upsample(size=9), nn.Upsample(scale_factor=2, mode="bilinear")):
        model = nn.Sequential(other, nn.Conv2d(3, 4, 3)).eval()
        assert_like(model, convert(model), torch.randn(2, 3, 5, 6))


def test_several_inputs_and_structured_outputs() -> None:
    model = randomise(ManyOutputs())
    converted = convert(model)
    x, scale = torch.randn(2, 3, 8, 8), torch.tensor(2.0)
    assert_like(model, converted, x, scale)
    assert_like(model, converted, x, scale, True)
    assert_like(model, converted, x, scale=scale, other=torch.randn(2, 8, 8, 8))
    assert_like(model, converted, x, scale, flag=True, other=torch.randn(2, 8, 8, 8))
    assert_like(model, converted, x, scale)


def test_inputs_and_model_are_left_alone() -> None:
    model = randomise(WritesToInput()).train()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model)
    x = torch.randn(1, 3, 8, 8)
    kept = x.clone()
    y = converted(x)
    assert torch.equal(x, kept)
    assert torch.allclose(y, model(x.clone()), atol=1e-5)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "forward" not in model.__dict__


def test_training_mode_converts_to_evaluation() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten())).train()
    converted = convert(model)
    x = torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        y = converted.train()(x)
        assert model.training and int(model[1].num_batches_tracked) == 0
        assert torch.allclose(y, model.eval()(x), atol=1e-5)


def test_batch_statistics_in_evaluation_stay() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()))
    assert_like(model, convert(model), torch.randn(3, 3, 6, 6))
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4)))
    converted = convert(model)
    assert_like(model, converted, torch.randn(3, 3, 6, 6))
    assert len(served(converted)) == 1


def test_shapes_in_the_code_are_followed_for_every_size() -> None:
    model = randomise(nn.Sequential(SameConv(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU6(), SameConv(4, 4, 5, 1)))
    converted = convert(model)
    for size in ((7, 9), (8, 8), (7, 9), (5, 12)):
        assert_like(model, converted, torch.randn(2, 3, *size))
        first, second = served(converted)
        assert first.act.name == "relu6" and len(first.norms) == 1 and sum(second.padding) == 8


def test_parts_of_what_cannot_be_captured_are_converted() -> None:
    model = randomise(NETWORKS["branches"]())
    converted = convert(model)
    assert_like(model, converted, torch.randn(1, 3, 8, 8))
    explanation = explain(converted)
    assert explanation.rows[0].layers == ("Branches",) and not explanation.rows[0].served
    assert "float()" in explanation.rows[0].why
    assert [row.layers for row in explanation.rows if row.served] == [
        ("body.0", "body.1", "body.2"),
        ("heads.1.conv2d",),
    ]


def test_what_only_export_can_follow() -> None:
    model = randomise(OwnFunction())
    x = torch.randn(2, 3, 8, 8)
    converted = convert(model, x)
    for shape in ((2, 3, 8, 8), (1, 3, 6, 10)):
        assert_like(model, converted, torch.randn(shape))
        first, swish, second, pool = served(converted)
        assert swish.act.name == "silu"
        assert len(first.norms) == 1 and first.act.name == "relu6" and second.upsample == (2, 2)
        assert second.act.name == "relu6" and pool.function == "adaptive_avg_pool2d"
    assert_like(model, converted, x, False)
    with torch.no_grad():
        model.bn.running_mean.add_(1)  # type: ignore[union-attr, operator]
    assert_like(model, converted, x)
    assert_like(model, convert(model), x)


def test_a_forward_replaced_on_the_object() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model.forward = lambda x: model[1](model[0](x)) * 2  # type: ignore[method-assign]
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(convert(model)(x), model(x), atol=1e-5, rtol=1e-5)


def test_explanation_of_a_network() -> None:
    model = randomise(NETWORKS["u_net"]())
    converted = convert(model)
    assert "call it once" in str(explain(converted))
    converted(torch.randn(1, 3, 16, 16))
    explanation = explain(converted)
    text = str(explanation)
    assert "upsample 2x2, conv 3x3 +bn +elu" in text and "1x16x8x8" in text
    assert not explanation.left
    kernels = {row.operation: row.kernel for row in explanation.rows}
    assert (kernels["add"], kernels["cat"]) == ("add", "in place")
    assert "plan: " in text and "packed weights" in text
    converted.region.store.plans_allowed = False
    converted(torch.randn(1, 3, 16, 20))  # another size: step by step
    left = explain(converted).left
    assert [row.operation for row in left] == ["add", "cat"]
    assert all(row.why for row in left)
    with pytest.raises(TypeError, match="module or the name"):
        explain(3)  # type: ignore[arg-type]


def test_unbatched_and_empty() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
    converted = convert(model)
    for shape in ((3, 8, 8), (0, 3, 8, 8), (1, 3, 8, 8)):
        with torch.no_grad():
            y, expected = converted(torch.ones(shape)), model(torch.ones(shape))
        torch.testing.assert_close(y, expected)


def test_gradients_flow_to_the_input() -> None:
    model = randomise(resnet())
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    (ours,) = torch.autograd.grad(convert(model)(x).sum(), x)
    (theirs,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_inference_mode() -> None:
    model = randomise(resnet())
    x = torch.randn(1, 3, 32, 32)
    converted = convert(model)
    with torch.inference_mode():
        y = converted(x)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), y)
        torch.testing.assert_close(model(x), y, atol=1e-5, rtol=1e-4)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="expected model to be"):
        convert(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floating-point"):
        convert(nn.Linear(2, 2), dtype=torch.int8)


def test_converting_twice() -> None:
    model = randomise(nn.Sequential(BasicBlock(3, 4), nn.ReLU()))
    assert_like(model, convert(convert(model)), torch.randn(1, 3, 8, 8))


def test_a_compiler_gets_the_model_itself() -> None:
    model = randomise(resnet())
    x = torch.randn(1, 3, 32, 32)
    program = torch.export.export(convert(model, x), (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-5)
