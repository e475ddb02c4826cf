"""What only a GPU can show: streams, graphs, mixed devices, kernels that follow torch's settings. Skipped elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv import functional
from fastconv.verify.tf32 import in_full_precision

pytestmark = pytest.mark.skipif(
    fastconv.backends.why_unavailable("cuda") is not None, reason=str(fastconv.backends.why_unavailable("cuda"))
)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.rand(shape, generator=generator, device="cuda") * 2 - 1
    return x.to(dtype).contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.to(dtype)


@cache
def weights(*shape: int, dtype: torch.dtype) -> Tensor:
    """Made once: under capture torch makes no random numbers."""
    return images(*shape, dtype=dtype)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv2d": lambda x: functional.conv2d(x, weights(24, x.shape[1], 3, 3, dtype=x.dtype), padding=1, act="relu"),
    "depthwise": lambda x: functional.conv2d(x, weights(x.shape[1], 1, 3, 3, dtype=x.dtype), groups=x.shape[1]),
    "upsample_conv2d": lambda x: functional.upsample_conv2d(x, weights(8, x.shape[1], 3, 3, dtype=x.dtype), padding=1),
    "max_pool2d": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "linear": lambda x: functional.linear(x.flatten(1), weights(10, x[0].numel(), dtype=x.dtype)),
    "silu": functional.silu,
    "softmax": lambda x: functional.softmax(x, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_a_captured_graph_replays_on_new_values(name: str, dtype: torch.dtype) -> None:
    """No host synchronisation, no allocation but torch's, everything on the current stream: else capture fails."""
    x = images(2, 16, 14, 14, dtype=dtype)
    call = CALLS[name]
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = call(x)
        x.mul_(-0.5)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, call(x))


@pytest.mark.parametrize("name", CALLS)
def test_work_goes_to_the_current_stream(name: str) -> None:
    x = images(2, 16, 14, 14)
    expected = CALLS[name](x)
    side = torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # some milliseconds: a kernel on another stream would read zeros
        late.copy_(x)
        y = CALLS[name](late)
    side.synchronize()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits_every_time(name: str) -> None:
    x = images(3, 16, 14, 14, dtype=torch.bfloat16)
    y = CALLS[name](x)
    assert torch.equal(y, CALLS[name](x))
    # Alone, another tile or split of the sum may be chosen.
    alone = CALLS[name](x[1:2].contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y[1:2], alone)


def test_training_follows_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).cuda()
    ours = fastconv.replace(model)
    x = images(4, 3, 10, 10)
    with in_full_precision():
        model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for p in ours.parameters():
        p.grad = None
    with in_full_precision():
        ours(x).square().mean().backward()
    for p, other in zip(ours.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, other, rtol=2e-3, atol=2e-4)


def test_tf32_is_used_where_torch_allows_it() -> None:
    x, w = images(1, 64, 14, 14), images(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        full = (functional.conv2d(x, w, padding=1) - exact).abs().max()
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        short = (functional.conv2d(x, w, padding=1) - exact).abs().max()
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert full < 1e-4 < short < 1e-1


def test_mixed_devices_are_refused() -> None:
    with pytest.raises((RuntimeError, ValueError), match="device"):
        functional.conv2d(images(1, 3, 5, 5), torch.randn(4, 3, 3, 3))


def test_a_network_converted_on_the_gpu_gives_torchs_answers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.BatchNorm2d(16), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).cuda().eval()  # fmt: skip
    x = images(2, 3, 32, 32)
    with torch.inference_mode():
        truth = model.double()(x.double())
        model.float()
        with in_full_precision():
            y = fastconv.convert(model, (x,))(x)
        torch.testing.assert_close(y.double(), truth, rtol=1e-3, atol=1e-4)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    ).cuda()  # fmt: skip


@pytest.mark.parametrize(
    "make", [fastconv.convert, lambda m: torch.compile(m, backend="fastconv")], ids=["convert", "compile"]
)
def test_whole_networks_are_captured(make: Callable[[nn.Module], nn.Module]) -> None:
    """Neither looking for changed weights nor Dynamo's guards wait for the GPU."""
    model = _network().eval()
    x = images(2, 16, 14, 14)
    with torch.inference_mode(), in_full_precision():
        run = make(model)
        run(x)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(x)
        x.mul_(-0.5)
        graph.replay()
        torch.testing.assert_close(y, model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"backend": "fastconv"}, {"mode": "reduce-overhead"}], ids=["fastconv", "inductor with graphs"]
)
def test_compiled_training(how: dict[str, str]) -> None:
    model = fastconv.replace(_network())
    x = images(4, 16, 14, 14)
    torch._dynamo.reset()
    compiled = torch.compile(model, **how)
    for _ in range(3):  # inductor captures at the second call
        with in_full_precision():
            ours = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
            ours = [g.clone() for g in ours]
            theirs = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        torch.testing.assert_close(ours, list(theirs), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_lowers_what_torchs_lowers(dtype: torch.dtype) -> None:
    x = images(2, 16, 8, 8)
    w, m, a = images(8, 16, 3, 3), images(5, 64), torch.full((16,), 0.1, device="cuda")
    calls: list[Callable[[object], Tensor]] = [
        lambda f: f.conv2d(x, w),
        lambda f: f.conv_transpose2d(x, images(16, 4, 3, 3)),
        lambda f: f.linear(x[0, 0], m[:, :8]),
        lambda f: f.prelu(x, a),
        lambda f: f.max_pool2d(x, 2),
        lambda f: f.relu6(x),
    ]
    for call in calls:
        with torch.autocast("cuda", dtype):
            ours, theirs = call(functional), call(torch.nn.functional)
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_transforms_on_the_gpu() -> None:
    x, w = images(4, 3, 8, 8), images(5, 3, 3, 3)
    results = []
    for f in (functional, torch.nn.functional):
        with in_full_precision():
            each = torch.vmap(torch.func.grad(lambda w, x, f=f: f.conv2d(x[None], w).square().sum()), (None, 0))(w, x)
            moved = torch.func.jvp(lambda x, f=f: f.silu(f.conv2d(x, w)), (x,), (x,))[1]
        results.append((each, moved))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_the_older_switch_turns_tf32_off() -> None:
    """In a process of its own: torch does not let it be mixed with fp32_precision."""
    code = (
        "import torch, fastconv.functional as F\n"
        "x, w = torch.randn(1, 64, 14, 14, device='cuda'), torch.randn(64, 64, 3, 3, device='cuda')\n"
        "torch.backends.cudnn.allow_tf32 = False\n"
        "exact = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)\n"
        "assert (F.conv2d(x, w, padding=1) - exact).abs().max() < 1e-3"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
