"""batch_norm_act against torch's batch_norm: values, running statistics, derivatives, modules, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import fastconv
from fastconv import functional
from fastconv.nn import ConvBNAct2d

BACKENDS = [name for name in ("cpu", "cuda_emulated", "reference") if fastconv.backends.why_unavailable(name) is None]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
ACTS = tuple(act for act in functional.ACTIVATIONS if act != "prelu")


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x, running_mean, running_var, weight, bias."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 3
    vectors = [torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(4)]
    vectors[1] = vectors[1].square() + 0.5
    return tuple(t.to(dtype) for t in (x, *vectors))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "running"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 6, 5), (2, 6, 5, 7), (2, 6, 3, 4, 5)], ids=str)
def test_every_rank_and_the_running_statistics(shape: tuple[int, ...], training: bool, backend: str) -> None:
    x, mean, var, weight, bias = operands(shape)
    expected_mean, expected_var = mean.clone(), var.clone()
    expected = torch_f.batch_norm(x, expected_mean, expected_var, weight, bias, training, 0.3, 1e-4)
    with fastconv.backend(backend):
        y = functional.batch_norm_act(x, mean, var, weight, bias, training, 0.3, 1e-4)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_pixels_than_one_group(layout: str, backend: str) -> None:
    x, _, _, weight, bias = operands((3, 40, 47, 53))
    x = (x + 1000).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    with fastconv.backend(backend):
        y = functional.batch_norm_act(x, None, None, weight, bias, True, act="relu")
        (dx,) = torch.autograd.grad(y.square().sum(), x)
    wide = x.detach().double().requires_grad_()
    truth = torch_f.batch_norm(wide, None, None, weight.double(), bias.double(), True).relu()
    (expected,) = torch.autograd.grad(truth.square().sum(), wide)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y.double(), truth, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(dx.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_large_mean_costs_no_digits() -> None:
    x = torch.randn(4, 3, 64, 64) + 1e4
    for backend in BACKENDS:
        _, var = torch.ops.fastconv.batch_norm_stats(x, "" if backend == "reference" else backend)
        torch.testing.assert_close(var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["training", "running"])
@pytest.mark.parametrize("act", ACTS)
def test_derivatives(act: str, training: bool) -> None:
    torch.manual_seed(2)
    x, mean, var, weight, bias = (t.requires_grad_() for t in operands((2, 3, 3, 2), torch.float64))
    residual = torch.randn_like(x).requires_grad_()
    statistics = (None, None) if training else (mean.detach(), var.detach())

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return functional.batch_norm_act(x, *statistics, weight, bias, training, residual=residual, act=act)

    assert gradcheck(call, (x, weight, bias, residual))
    assert gradgradcheck(call, (x, weight, bias, residual), fast_mode=True)


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 3, 2)], ids=str)
def test_derivative_of_prelu(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x, _, _, weight, bias = (t.requires_grad_() for t in operands((2, 3, 3, 2), torch.float64))
    alpha = torch.rand(shape, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor) -> Tensor:
        return functional.batch_norm_act(x, None, None, weight, bias, True, act="prelu", act_param=alpha)

    assert gradcheck(call, (x, weight, bias, alpha))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_with_parameters_in_float32(dtype: torch.dtype) -> None:
    x, mean, var, weight, bias = operands((2, 8, 9, 9))
    leaf, parameter = x.to(dtype).requires_grad_(), weight.clone().requires_grad_()
    y = functional.batch_norm_act(leaf, mean, var, parameter, bias, True, act="silu")
    assert y.dtype == dtype
    dx, dweight = torch.autograd.grad(y.float().square().sum(), (leaf, parameter))
    assert dx.dtype == dtype and dweight.dtype == torch.float32
    wide, its = x.to(dtype).double().requires_grad_(), weight.double().requires_grad_()
    truth = torch_f.silu(torch_f.batch_norm(wide, None, None, its, bias.double(), True))
    _, expected = torch.autograd.grad(truth.square().sum(), (wide, its))
    torch.testing.assert_close(dweight.double(), expected, rtol=3e-2, atol=0.5)


BAD: dict[str, tuple[Any, ...]] = {
    "one value": (torch.randn(1, 3, 1, 1), None, None, None, None, True),
    "no statistics": (torch.randn(2, 3, 4, 4), None, None, None, None, False),
    "no variance": (torch.randn(2, 3, 4, 4), torch.zeros(3), None, None, None, False),
    "short mean": (torch.randn(2, 3, 4, 4), torch.zeros(2), torch.ones(3), None, None, False),
    "short weight": (torch.randn(2, 3, 4, 4), torch.zeros(3), torch.ones(3), torch.ones(2), None, False),
    "short bias": (torch.randn(2, 3, 4, 4), torch.zeros(3), torch.ones(3), None, torch.ones(4), True),
    "half of the statistics": (torch.randn(2, 3, 4, 4), None, torch.ones(3), None, None, True),
    "wide parameters": (torch.randn(2, 3, 4, 4), torch.zeros(3).double(), torch.ones(3).double(), None, None, False),
    "narrow parameters": (torch.randn(2, 3, 4, 4).double(), torch.zeros(3), torch.ones(3), None, None, True),
    "eps": (torch.randn(2, 3, 4, 4), None, None, None, None, True, 0.1, 0.0),
    "negative eps": (torch.randn(2, 3, 4, 4), torch.zeros(3), torch.ones(3), None, None, False, 0.1, -1.0),
    "no tensor": (5, torch.zeros(3), torch.ones(3), None, None, False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_errors_are_torchs(arguments: tuple[Any, ...], backend: str) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError)) as theirs:
        torch_f.batch_norm(*arguments)
    with fastconv.backend(backend), pytest.raises(type(theirs.value)) as ours:
        functional.batch_norm_act(*arguments)
    # Our function has a name of its own.
    assert str(ours.value).replace("batch_norm_act()", "batch_norm()") == str(theirs.value)


def test_other_errors() -> None:
    x, mean, var, *_ = operands((2, 3, 4, 4))
    with pytest.raises(ValueError, match="expected act to be one of"):
        functional.batch_norm_act(x, mean, var, act="relu7")
    with pytest.raises(ValueError, match="residual"):
        functional.batch_norm_act(x, mean, var, residual=x[:1])
    with pytest.raises(NotImplementedError, match="int64"):
        functional.batch_norm_act(x.long(), mean, var)


def test_an_empty_batch_moves_no_statistics() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    y = functional.batch_norm_act(torch.randn(0, 3, 4, 4), mean, var, training=True)
    assert y.shape == (0, 3, 4, 4) and mean.tolist() == [0.0] * 3 and var.tolist() == [1.0] * 3


# ---- the module --------------------------------------------------------------------------------------------------


def _twins(act: Any, **options: Any) -> tuple[ConvBNAct2d, nn.Sequential]:
    torch.manual_seed(0)
    ours = ConvBNAct2d(4, 6, 3, padding=1, act=act, **options)
    conv, bn = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
    conv.load_state_dict(ours.conv.state_dict())
    assert ours.bn is not None
    bn = copy.deepcopy(ours.bn)
    theirs = nn.Sequential(conv, bn, copy.deepcopy(ours.act))
    return ours, theirs


@pytest.mark.parametrize("act", ["relu", "silu", "prelu", "identity", nn.Hardtanh(-1, 2)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}],
    ids=["plain", "cumulative", "not_affine", "untracked"],
)
def test_training_is_torchs(act: Any, options: dict[str, Any]) -> None:
    ours, theirs = _twins(act, **options)
    for step in range(3):
        x = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(step))
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for module, y in ((ours, a), (theirs, b)):
            module.zero_grad()
            y.square().mean().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
    assert ours.bn is not None
    for name, buffer in ours.bn.named_buffers():
        torch.testing.assert_close(buffer, theirs[1].get_buffer(name))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_hooks_on_the_norm_still_run() -> None:
    block = ConvBNAct2d(4, 6, 3)
    seen: list[Tensor] = []
    assert block.bn is not None
    block.bn.register_forward_hook(lambda module, arguments, y: seen.append(y))
    block(torch.randn(2, 4, 5, 5))
    assert len(seen) == 1
