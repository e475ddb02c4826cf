"""Activations and softmax against torch: special values, in-place forms, any dimensions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as torch_f
from closeness import DTYPES, TOLERANCE, close, last

from fastconv import functional

ACTS = tuple(act for act in functional.ACTIVATIONS if act not in ("identity", "prelu"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ("sigmoid", "tanh", *ACTS))
def test_activations_of_special_values(act: str, dtype: torch.dtype) -> None:
    inf = float("inf")
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0, 6.0, 100.0, -100.0, 6e4, -6e4, inf, -inf, float("nan")])
    x = torch.cat([x, torch.linspace(-12, 12, 1001)]).to(dtype)
    theirs = getattr(torch, act)(x.double()) if act in ("sigmoid", "tanh") else getattr(torch_f, act)(x.double())
    torch.testing.assert_close(getattr(functional, act)(x), theirs.to(dtype), equal_nan=True, **TOLERANCE[dtype])


IN_PLACE = ("relu", "relu6", "leaky_relu", "silu", "hardswish", "hardsigmoid", "elu")


@pytest.mark.parametrize("act", IN_PLACE)
def test_in_place_activations(act: str) -> None:
    ours, theirs = getattr(functional, act), getattr(torch_f, act)
    for x in (torch.randn(2, 3, 4, 5), last(torch.randn(2, 3, 4, 5)), torch.randn(8, 9)[::2, ::3], torch.randn(0, 3)):
        expected, version, place = theirs(x.clone()), x._version, x.data_ptr()
        y = ours(x, inplace=True)
        assert y is x and x.data_ptr() == place and x._version > version
        close(x, expected)
    surroundings = torch.randn(6, 6)
    before = surroundings.clone()
    ours(surroundings[1:5, 1:5], inplace=True)
    before[1:5, 1:5] = theirs(before[1:5, 1:5].clone())
    close(surroundings, before)


@pytest.mark.parametrize("act", IN_PLACE)
def test_in_place_activations_differentiate(act: str) -> None:
    grads = []
    for f in (functional, torch_f):
        x = torch.linspace(-4, 7, 23, requires_grad=True)
        y = getattr(f, act)(x * 1.01, inplace=True)
        grads.append(torch.autograd.grad(y.square().sum(), x)[0])
    close(*grads)


def test_in_place_activations_of_saved_tensors_are_noticed() -> None:
    x = torch.randn(5, requires_grad=True)
    y = torch.exp(x)
    with torch.no_grad():
        functional.relu(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dims", range(6))
def test_activations_of_any_dimensions(dims: int) -> None:
    x = torch.randn([3, 4, 2, 5, 2][:dims])
    close(functional.silu(x), torch_f.silu(x))
    close(functional.prelu(x, torch.tensor([0.3])), torch_f.prelu(x, torch.tensor([0.3])))
    if dims >= 2:
        alpha = torch.randn(4)
        close(functional.prelu(x, alpha), torch_f.prelu(x, alpha))
        close(functional.prelu(x.transpose(0, -1).contiguous().transpose(0, -1), alpha), torch_f.prelu(x, alpha))
    for dim in range(-max(dims, 1), max(dims, 1)):
        close(functional.softmax(x, dim), torch_f.softmax(x, dim))


def test_softmax_of_special_values() -> None:
    inf = float("inf")
    x = torch.tensor([[1e4, -1e4, 0.0], [inf, 0.0, 1.0], [-inf, 0.0, 1.0], [-inf] * 3, [float("nan"), 0.0, 1.0]])
    torch.testing.assert_close(functional.softmax(x, 1), torch.softmax(x, 1), equal_nan=True)
    assert functional.softmax(torch.arange(3), 0, dtype=torch.float64).dtype == torch.float64
