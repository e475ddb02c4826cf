"""fastconv.nn: torch's constructors, state_dict and results, and fused blocks whose fold is never stale."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from networks import randomise
from torch import Tensor, nn
from torch.nn.utils import prune

import fastconv.nn as fnn

LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Conv2d", (4, 6, 3), {}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": 2, "groups": 2}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {"padding": "same", "bias": False}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {"padding": 2, "padding_mode": "reflect"}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {"padding": 1, "padding_mode": "replicate", "stride": 2}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 4), {"padding": "same", "padding_mode": "circular"}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {}, (4, 9, 8)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (2, 4, 5, 6)),
    ("Linear", (5, 7), {}, (3, 2, 5)),
    ("Linear", (5, 7), {"bias": False}, (5,)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, (2, 3, 8, 7)),
    ("MaxPool2d", (2,), {"dilation": 2}, (2, 3, 8, 7)),
    ("AvgPool2d", (3, 2), {"padding": 1, "count_include_pad": False}, (2, 3, 8, 7)),
    ("AvgPool2d", (2,), {"divisor_override": 3}, (2, 3, 8, 7)),
    ("AdaptiveAvgPool2d", ((3, None),), {}, (2, 3, 8, 7)),
    ("AdaptiveMaxPool2d", (2,), {}, (2, 3, 8, 7)),
    ("PReLU", (), {}, (2, 3, 4, 4)),
    ("PReLU", (3,), {"init": 0.1}, (2, 3, 4, 4)),
    ("ReLU", (), {"inplace": True}, (2, 3)),
    ("ReLU6", (), {}, (2, 3)),
    ("LeakyReLU", (0.2,), {"inplace": True}, (2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS, ids=lambda value: str(value).replace(" ", ""))
def test_layers_equal_torchs(name: str, args: Any, kwargs: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn, name)(*args, **kwargs)
    ours = getattr(fnn, name)(*args, **kwargs)
    assert isinstance(ours, getattr(nn, name)) and repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = (torch.randn(shape) * 4).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    y, expected = ours(x * 1), theirs(twin * 1)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    assert y.stride() == expected.stride()
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, atol=1e-3, rtol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-3, rtol=1e-4)


def test_indices_and_output_size() -> None:
    x = torch.randn(1, 2, 6, 6)
    for name, args in (("MaxPool2d", (2,)), ("AdaptiveMaxPool2d", (3,))):
        ours, theirs = (getattr(kind, name)(*args, return_indices=True)(x) for kind in (fnn, nn))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    layer = fnn.ConvTranspose2d(2, 3, 3, stride=2)
    assert layer(x, output_size=[14, 13]).shape == (1, 3, 14, 13)
    with pytest.raises(ValueError, match="requested an output size"):
        layer(x, output_size=[20, 20])


def test_prelu_of_the_full_shape() -> None:
    layer = fnn.PReLU((3, 4, 5), init=0.5)
    assert layer.weight.shape == (3, 4, 5) and set(layer.state_dict()) == {"weight"}
    x = torch.randn(2, 3, 4, 5)
    layer(x).sum().backward()
    torch.testing.assert_close(layer(x), torch.where(x >= 0, x, 0.5 * x))
    torch.testing.assert_close(layer.weight.grad, x.clamp(max=0).sum(0))
    with pytest.raises(ValueError, match=r"shape \(C, H, W\)"):
        fnn.PReLU((3, 4))  # type: ignore[arg-type]


def torch_block(act: nn.Module, **bn: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6, **bn), act)


ACTS: dict[str, Any] = {
    "identity": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU,
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "silu": nn.SiLU, "hardswish": nn.Hardswish, "gelu": nn.GELU, "elu": nn.ELU,
    "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_conv_bn_act_in_both_modes(act: str) -> None:
    torch.manual_seed(0)
    theirs = randomise(torch_block(ACTS[act]()))
    ours = fnn.ConvBNAct2d(3, 6, 3, 2, 1, act=act)
    assert [name for name, _ in ours.named_children()] == ["conv", "bn", "act"]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 9, 9)
    for mode in (False, True, False):
        ours.train(mode), theirs.train(mode)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    ours(x).sum().backward()
    theirs(x).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-3, rtol=1e-3)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bn", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 1e-2}])
def test_conv_bn_act_variants(bn: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = randomise(torch_block(nn.ReLU(), **bn))
    ours = fnn.ConvBNAct2d(3, 6, 3, 2, 1, **bn).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 9, 9)
    for mode in (False, True, False):
        ours.train(mode), theirs.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="expected act to be one of identity, relu"):
        fnn.ConvBNAct2d(3, 4, 1, act="swish7")


def test_from_torch_shares_parameters() -> None:
    conv, bn, act = torch_block(nn.PReLU(6))
    block = fnn.ConvBNAct2d.from_torch(conv, bn, act)
    assert block.conv.weight is conv.weight and block.bn is bn and block.act is act and type(conv) is nn.Conv2d
    plain = fnn.ConvBNAct2d.from_torch(nn.Conv2d(3, 4, 3)).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), plain.conv(x))
    with pytest.raises(TypeError, match=r"torch\.nn\.Conv2d"):
        fnn.ConvBNAct2d.from_torch(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [2, (3, 1)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_upsample_conv(scale: Any, padding_mode: str) -> None:
    torch.manual_seed(0)
    upsample, conv = nn.Upsample(scale_factor=scale), nn.Conv2d(3, 5, 3, 1, 1, padding_mode=padding_mode)
    theirs = randomise(nn.Sequential(upsample, conv, nn.BatchNorm2d(5), nn.LeakyReLU(0.2)))
    ours = fnn.UpsampleConv2d.from_torch(*theirs)
    made = fnn.UpsampleConv2d(3, 5, 3, scale_factor=scale, padding=1, padding_mode=padding_mode)
    made.load_state_dict({f"conv.{key}": value for key, value in conv.state_dict().items()})
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    for mode in (False, True, False):
        ours.train(mode), theirs.train(mode)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made(x), conv(upsample(x)), atol=1e-5, rtol=1e-5)
    (mine,) = torch.autograd.grad(made(x).square().sum(), x)
    (other,) = torch.autograd.grad(conv(upsample(x)).square().sum(), x)
    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="nearest"):
        fnn.UpsampleConv2d.from_torch(nn.Upsample(scale_factor=2, mode="bilinear"), conv)
    with pytest.raises(ValueError, match="positive int"):
        fnn.UpsampleConv2d(3, 5, 3, scale_factor=1.5)  # type: ignore[arg-type]


def _edits(block: Any) -> list[Any]:
    def training_step() -> None:
        block.train()(torch.randn(4, 3, 9, 9))
        block.eval()

    def optimiser_step() -> None:
        optimizer = torch.optim.SGD(block.parameters(), 0.5)
        with torch.enable_grad():
            block(torch.randn(4, 3, 9, 9)).square().sum().backward()
        optimizer.step()

    def in_place() -> None:
        with torch.no_grad():
            block.bn.running_var.mul_(4)

    def load() -> None:
        block.load_state_dict(randomise(copy.deepcopy(block), seed=9).state_dict())

    def new_bn() -> None:
        block.bn = randomise(nn.BatchNorm2d(6), seed=3)

    def through_half() -> None:
        block.half().float()

    def bias() -> None:
        block.conv.bias = nn.Parameter(torch.ones(6))

    return [training_step, optimiser_step, in_place, load, new_bn, through_half, bias]


@pytest.mark.parametrize("index", range(7))
def test_the_fold_follows_the_weights(index: int) -> None:
    torch.manual_seed(0)
    block = randomise(fnn.ConvBNAct2d(3, 6, 3, 2, 1, act="relu6"))
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        before = block(x)
        _edits(block)[index]()
        after, expected = block(x), block.act(block.bn(block.conv(x)))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


def test_edits_under_grad_mode() -> None:
    block = randomise(fnn.ConvBNAct2d(3, 6, 3))
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        block(x)
    block(x).sum().backward()
    torch.optim.SGD(block.parameters(), 0.5).step()
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.act(block.bn(block.conv(x))), atol=1e-4, rtol=1e-4)


def test_folds_are_dropped_in_copies_and_pickles() -> None:
    block = randomise(fnn.ConvBNAct2d(3, 6, 3))
    x = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        y = block(x)
        buffer = io.BytesIO()
        torch.save(block, buffer)
        assert buffer.getbuffer().nbytes < 16_000
        buffer.seek(0)
        twins = [copy.deepcopy(block), torch.load(buffer, weights_only=False)]
        block.conv.weight.zero_()
        for twin in twins:
            torch.testing.assert_close(twin(x), y)
            twin.conv.weight.zero_()
            torch.testing.assert_close(twin(x), block(x))


def test_the_same_folded_tensor_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed form of a weight is cached per tensor object: a new object would be packed anew at every call."""
    from fastconv import functional

    seen: list[Tensor] = []
    real = functional.conv2d
    monkeypatch.setattr(
        functional, "conv2d", lambda x, w, *args, **kwargs: (seen.append(w), real(x, w, *args, **kwargs))[1]
    )
    block = randomise(fnn.ConvBNAct2d(3, 6, 3))
    with torch.no_grad():
        for _ in range(3):
            block(torch.randn(1, 3, 5, 5))
    assert seen[0] is seen[1] is seen[2] and seen[0] is not block.conv.weight


def test_hooks_on_parts_run() -> None:
    block = randomise(fnn.ConvBNAct2d(3, 6, 3))
    block.bn.register_forward_hook(lambda module, args, y: y * 0)
    with torch.no_grad():
        assert float(block(torch.randn(1, 3, 5, 5)).abs().max()) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_pruned_upsample_conv_trains_as_torchs(bias: bool) -> None:
    block = fnn.UpsampleConv2d(3, 4, 3, padding=1, bias=bias)
    prune.l1_unstructured(block.conv, "weight", 0.3)
    if bias:
        prune.random_unstructured(block.conv, "bias", 0.5)
    upsample = nn.Upsample(scale_factor=2)
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
    prune.custom_from_mask(conv, "weight", block.conv.weight_mask)
    if bias:
        prune.custom_from_mask(conv, "bias", block.conv.bias_mask)
    conv.load_state_dict(block.conv.state_dict())
    theirs = nn.Sequential(upsample, conv)
    for _ in range(3):
        x = torch.randn(2, 3, 5, 5)
        results = []
        for model in (block, theirs):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer.zero_grad()
            y = model(x)
            y.square().mean().backward()
            optimizer.step()
            results.append(y.detach())
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    for mine, other in zip(block.conv.parameters(), conv.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(block(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("act", "attribute", "value"),
    [
        (nn.LeakyReLU(0), "negative_slope", 0.5),
        (nn.LeakyReLU(True), "negative_slope", 0.5),
        (nn.ELU(2), "alpha", 1),  # type: ignore[arg-type]
        (nn.Hardtanh(0, 6), "max_val", 1),
        (nn.GELU(), "approximate", "tanh"),
    ],
    ids=["int", "bool", "to_int", "other_kernel", "text"],
)
def test_an_attribute_of_the_activation_changes(act: nn.Module, attribute: str, value: Any) -> None:
    block = fnn.ConvBNAct2d(3, 4, 3, act=act).eval().requires_grad_(False)
    x = torch.randn(1, 3, 8, 8)
    block(x)
    setattr(act, attribute, value)
    torch.testing.assert_close(block(x), act(block.bn(block.conv(x))), rtol=1e-4, atol=1e-5)
