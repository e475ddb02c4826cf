"""Gradients lie as what they are gradients of, whatever arrives from behind, and activations in place stay in place:
one gradient in another format makes every layer before it read two formats at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import functional

weight = torch.randn(6, 4, 3, 3)
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv2d": lambda x: functional.conv2d(x, weight, padding=1),
    "conv2d to one pixel": lambda x: functional.conv2d(x, torch.ones(3, 4, 6, 6)),
    "depthwise": lambda x: functional.conv2d(x, torch.ones(4, 1, 3, 3), groups=4),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2),
    "upsample_conv2d": lambda x: functional.upsample_conv2d(x, weight, scale_factor=2),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "max_pool2d to one pixel": lambda x: functional.max_pool2d(x, 6),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, 1),
    "relu": functional.relu,
    "batch_norm_act": lambda x: functional.batch_norm_act(x, None, None, training=True),
}
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("mine", FORMATS, ids=("NCHW", "NHWC"))
@pytest.mark.parametrize("theirs", FORMATS, ids=("from NCHW", "from NHWC"))
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_lie_as_their_inputs(
    layer: Callable[[Tensor], Tensor], theirs: torch.memory_format, mine: torch.memory_format
) -> None:
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=mine).requires_grad_()
    y = layer(x)
    dy = torch.randn(y.shape)
    (expected,) = torch.autograd.grad(layer(x), x, dy)
    (dx,) = torch.autograd.grad(y, x, dy.contiguous(memory_format=theirs))
    assert dx.stride() == x.stride() and torch.equal(dx, expected)


class _Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("act", (nn.ReLU, nn.ReLU6, nn.LeakyReLU))
def test_activations_in_place_copy_nothing(act: type[nn.Module]) -> None:
    model = fastconv.replace(nn.Sequential(nn.Conv2d(3, 4, 3), act(inplace=True), nn.Conv2d(4, 2, 3)))
    for layer in (model, model.to(memory_format=torch.channels_last)):
        y = layer(torch.randn(2, 3, 8, 8))
        with _Called() as called:
            y.backward(torch.ones_like(y))
            layer(torch.randn(2, 3, 8, 8))
        assert "fastconv::activation_" in called.names
        assert not {"aten::clone", "aten::copy_", "aten::zeros", "aten::zero_"} & set(called.names), called.names
        layer.zero_grad()


@pytest.mark.parametrize("act", ("relu", "relu6", "leaky_relu"))
def test_refused_in_place_activations_change_nothing(act: str) -> None:
    leaf = torch.linspace(-1, 7, 5, requires_grad=True)
    for x in (leaf, leaf[1:3]):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad is being used in an in-place"):
            getattr(functional, act)(x, inplace=True)
    assert torch.equal(leaf.detach(), torch.linspace(-1, 7, 5))
