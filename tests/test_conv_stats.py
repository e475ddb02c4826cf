"""conv2d_stats: derivatives, and the modules that train through it, against torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import ops
from fastconv.nn import ConvBNAct2d

BACKENDS = [name for name in ("cpu", "cuda_emulated", "reference") if fastconv.backends.why_unavailable(name) is None]
emulated_only = pytest.mark.skipif("cuda_emulated" not in BACKENDS, reason="the emulated kernels are not built")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


class Noted(TorchDispatchMode):
    """The names of our operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.startswith("fastconv"):
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, weight, bias."""
    torch.manual_seed(0)
    return tuple(torch.randn(s, dtype=dtype, requires_grad=True) for s in ((2, 4, 5, 4), (6, 2, 3, 3), (6,)))


def stats(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str = "") -> tuple[Tensor, Tensor, Tensor]:
    operator = ops.recorder(ops.operators_of(backend).conv2d_stats)
    return operator(x, weight, bias, [2, 1], [1, 0, 1, 2], [1, 1], 2, "", backend)


def theirs(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    y = torch_f.conv2d(torch_f.pad(x, (1, 2, 1, 0)), weight, bias, (2, 1), 0, 1, 2)
    var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
    return y, mean, var


def test_every_order_of_derivative() -> None:
    assert gradcheck(stats, operands(), check_forward_ad=True)
    assert gradgradcheck(stats, operands(), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "loss",
    [
        lambda y, mean, var: y.square().sum(),
        lambda y, mean, var: mean.square().sum(),
        lambda y, mean, var: (var + 1).log().sum(),
        lambda y, mean, var: (y * mean[:, None, None] + y / (1 + var[:, None, None])).square().sum(),
    ],
    ids=["y", "mean", "var", "all"],
)
def test_nobody_gets_a_wrong_gradient(loss: Callable[..., Tensor], backend: str) -> None:
    """The statistics are functions of x and weight, whatever they are used for."""
    leaves = operands()
    for a, b in zip(
        torch.autograd.grad(loss(*stats(*leaves, backend)), leaves),
        torch.autograd.grad(loss(*theirs(*leaves)), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_counts_the_statistics_once(backend: str) -> None:
    leaves = operands()
    y, mean, var = stats(*leaves, backend)
    norm = ops.recorder(ops.operators_of(backend).batch_norm_act)
    z = norm(y, mean, var, None, None, True, 1e-5, None, "silu", 0.0, None, backend)
    expected = torch_f.silu(torch_f.batch_norm(theirs(*leaves)[0], None, None, None, None, True))
    torch.testing.assert_close(z, expected)
    cotangent = torch.randn_like(z)
    for a, b in zip(
        torch.autograd.grad(z, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


# ---- modules


def twins(act: str = "relu", **options: Any) -> tuple[ConvBNAct2d, nn.Sequential]:
    torch.manual_seed(0)
    ours = ConvBNAct2d(16, 24, 3, stride=2, padding=1, act=act, **options)
    conv = nn.Conv2d(
        16, 24, 3, 2, 1, bias=ours.conv.bias is not None, padding_mode=options.get("padding_mode", "zeros")
    )
    conv.load_state_dict(ours.conv.state_dict())
    return ours, nn.Sequential(conv, copy.deepcopy(ours.bn), copy.deepcopy(ours.act))


@emulated_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"momentum": None}, {"padding_mode": "reflect"}], ids=str)
def test_training_is_torchs(options: dict[str, Any], layout: str) -> None:
    ours, reference = twins(**options)
    for step in range(2):
        x = torch.randn(3, 16, 9, 10, generator=torch.Generator().manual_seed(step))
        x = x.contiguous(memory_format=LAYOUTS[layout])
        with fastconv.backend("cuda_emulated"), Noted() as noted:
            a = ours(x)
            a.square().mean().backward()
        b = reference(x)
        b.square().mean().backward()
        assert "conv2d_stats" in noted.names and "batch_norm_stats" not in noted.names and "conv2d" not in noted.names
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
    assert ours.bn is not None
    for name, buffer in ours.bn.named_buffers():
        torch.testing.assert_close(buffer, reference[1].get_buffer(name))


@emulated_only
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_through_the_fused_kernel(dtype: torch.dtype) -> None:
    """y, and what BatchNorm makes of it, are those of the parts; the statistics are, to the last digits."""
    ours, _ = twins()
    ours = ours.to(dtype)
    x = torch.randn(3, 16, 9, 10).to(dtype).contiguous(memory_format=torch.channels_last)
    geometry = ([2, 2], [1, 1, 1, 1], [1, 1], 1)
    got = [
        ops.native.conv2d_stats(x, ours.conv.weight, None, *geometry, a, "cuda_emulated") for a in ("wgmma", "parts")
    ]
    torch.testing.assert_close(*(y for y, *_ in got), rtol=1e-2, atol=1e-2)
    for fused, parts in zip(got[0][1:], got[1][1:], strict=True):
        torch.testing.assert_close(fused, parts, rtol=1e-3, atol=1e-3)
    wide = copy.deepcopy(ours).double()
    with fastconv.backend("cuda_emulated"):
        y = ours(x)
        y.float().square().mean().backward()
    expected = wide(x.double())
    expected.square().mean().backward()
    torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=5e-2)
    for p, q in zip(ours.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=5e-2, atol=2e-2)


@emulated_only
def test_autocast_lowers_the_convolution() -> None:
    ours, _ = twins()
    x = torch.randn(2, 16, 9, 8)
    with fastconv.backend("cuda_emulated"), torch.autocast("cpu", torch.bfloat16), Noted() as noted:
        y = ours(x)
    assert y.dtype == torch.bfloat16 and "conv2d_stats" in noted.names
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in ours.parameters())


def _hooked(conv: nn.Module, calls: list[int]) -> None:
    conv.register_forward_hook(lambda *_: calls.append(1))


def _hooked_before(conv: nn.Module, calls: list[int]) -> None:
    conv.register_forward_pre_hook(lambda *_: calls.append(1))


@emulated_only
@pytest.mark.parametrize("register", [_hooked, _hooked_before])
def test_hooks_on_the_convolution_still_run(register: Callable[..., None]) -> None:
    ours, _ = twins()
    calls: list[int] = []
    register(ours.conv, calls)
    with fastconv.backend("cuda_emulated"):
        ours(torch.randn(2, 16, 5, 5))
    assert calls == [1]


@emulated_only
@pytest.mark.parametrize(
    "change", [parametrizations.weight_norm, lambda conv: prune.l1_unstructured(conv, "weight", 0.5)]
)
def test_weights_that_are_made_on_the_way(change: Callable[..., Any]) -> None:
    ours, reference = twins()
    change(ours.conv), change(reference[0])
    x = torch.randn(2, 16, 5, 6)
    with fastconv.backend("cuda_emulated"):
        y = ours(x)
    torch.testing.assert_close(y, reference(x), rtol=1e-4, atol=1e-5)


def test_the_cpu_keeps_its_calls() -> None:
    ours, _ = twins()
    with Noted() as noted:
        ours(torch.randn(2, 16, 5, 5))
    assert noted.names == ["conv2d", "batch_norm_stats", "batch_norm_act"]


@emulated_only
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.randn(2, 15, 5, 5), "expected input.*to have 16 channels, but got 15 channels"),
        (torch.randn(1, 16, 1, 1), "Expected more than 1 value per channel when training"),
        (torch.randn(16, 5, 5), "expected 4D input"),
        (torch.randn(2, 16, 5, 5).double(), "same dtype|type"),
    ],
    ids=["channels", "one value", "no batch", "dtype"],
)
def test_errors_are_torchs(x: Tensor, words: str) -> None:
    ours, _ = twins()
    texts = []
    for backend in ("cpu", "cuda_emulated"):
        with fastconv.backend(backend), pytest.raises((RuntimeError, ValueError), match=words) as error:
            ours(x)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert ours.bn is not None and int(ours.bn.num_batches_tracked) == (2 if "more than" in words else 0)


@emulated_only
def test_a_captured_graph_trains_alike() -> None:
    ours, _ = twins()
    x = torch.randn(2, 16, 7, 6)
    with fastconv.backend("cuda_emulated"):
        y = ours(x)
        compiled = torch.compile(copy.deepcopy(ours), backend="aot_eager", fullgraph=True)
        z = compiled(x)
        torch.testing.assert_close(z, y)
        y.square().sum().backward()
        z.square().sum().backward()
    for p, q in zip(ours.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
