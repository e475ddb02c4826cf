"""The registered operators under torch.library.opcheck (schema, autograd, fakes, dynamic shapes) and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn

import fastconv
from fastconv import functional, ops

Arguments = tuple[Any, ...]


def _r(*shape: int, grad: bool = False, last: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


def _fused(k: int, shape: tuple[int, ...]) -> Arguments:
    return _r(k), _r(k), _r(*shape), "prelu", 0.0, _r(k)


PLAIN: Arguments = (None, None, None, "identity", 0.0, None)
WINDOW: Arguments = ([1, 1], [1, 1, 1, 1], [1, 1])  # stride, padding, dilation


def _conv2d() -> Iterator[Arguments]:
    for grad in (False, True):
        yield _r(2, 4, 5, 6, grad=grad), _r(6, 4, 3, 3, grad=grad), _r(6, grad=grad), *WINDOW, 1, *PLAIN, "", "", None
    x, w = _r(2, 4, 5, 6, grad=True, last=True), _r(6, 2, 3, 3, grad=True)
    yield x, w, None, [2, 1], [0, 1, 2, 1], [1, 2], 2, *PLAIN, "", "", None
    yield _r(2, 4, 5, 6), _r(6, 4, 3, 3), _r(6), *WINDOW, 1, *_fused(6, (2, 6, 5, 6)), "", "", None
    half = {"dtype": torch.bfloat16}
    yield (
        _r(2, 4, 5, 6, **half),
        _r(6, 4, 1, 1, last=True, **half),
        None,
        [1, 1],
        [0] * 4,
        [1, 1],
        1,
        *PLAIN,
        "",
        "",
        None,
    )
    yield _r(0, 4, 5, 6), _r(6, 4, 3, 3), None, *WINDOW, 1, *PLAIN, "", "", None
    yield _r(1, 0, 5, 6), _r(6, 0, 3, 3), None, *WINDOW, 1, *PLAIN, "", "", None


def _conv2d_stats() -> Iterator[Arguments]:
    for last, grad, dtype in ((False, True, torch.float32), (True, False, torch.float32), (True, True, torch.bfloat16)):
        x, w = _r(2, 4, 6, 5, grad=grad, last=last, dtype=dtype), _r(6, 2, 3, 3, grad=grad, dtype=dtype)
        yield x, w, _r(6, grad=grad, dtype=dtype), *WINDOW, 2, "", ""
    yield _r(2, 3, 4, 4), _r(5, 3, 1, 1), None, [1, 1], [0, 0, 0, 0], [1, 1], 1, "parts", ""


def _upsample_conv2d() -> Iterator[Arguments]:
    for grad in (False, True):
        x, w, b = _r(2, 4, 3, 4, grad=grad), _r(6, 4, 3, 3, grad=grad, last=grad), _r(6, grad=grad)
        yield x, w, b, [2, 3], *WINDOW, 1, *PLAIN, "", "", None
    yield _r(2, 4, 3, 4), _r(6, 4, 3, 3), _r(6), [2, 2], *WINDOW, 1, *_fused(6, (2, 6, 6, 8)), "", "", None


def _conv_transpose2d() -> Iterator[Arguments]:
    for grad in (False, True):
        x, w, b = _r(2, 4, 3, 4, grad=grad, last=grad), _r(4, 3, 3, 2, grad=grad), _r(6, grad=grad)
        yield x, w, b, [2, 1], [1, 0], [1, 0], 2, [1, 2], "", "", None
    yield _r(0, 4, 3, 4), _r(4, 3, 3, 2), None, [1, 1], [0, 0], [0, 0], 1, [1, 1], "", "", None


def _input_grad() -> Iterator[Arguments]:
    for grad in (False, True):
        dy, w = _r(2, 6, 5, 6, grad=grad, last=grad), _r(6, 4, 3, 3, grad=grad)
        yield dy, w, [2, 4, 5, 6], *WINDOW, 1, "", ""
    yield _r(2, 4, 2, 3), _r(4, 1, 3, 3), [2, 4, 5, 6], [2, 2], [0, 1, 1, 0], [1, 1], 4, "", ""


def _weight_grad() -> Iterator[Arguments]:
    for grad in (False, True):
        dy, x = _r(2, 6, 5, 6, grad=grad, last=grad), _r(2, 4, 5, 6, grad=grad)
        yield dy, x, [6, 4, 3, 3], *WINDOW, 1, "", ""
    yield _r(2, 4, 2, 3), _r(2, 4, 5, 6), [4, 1, 3, 3], [2, 2], [0, 1, 1, 0], [1, 1], 4, "", ""


def _gemm() -> Iterator[Arguments]:
    for grad in (False, True):
        yield _r(4, 5, grad=grad), _r(5, 6, grad=grad), _r(6, grad=grad), False, False, *PLAIN[2:], "", "", None
        yield _r(2, 5, 4, grad=grad), _r(2, 6, 5, grad=grad), None, True, True, *PLAIN[2:], "", "", None
    yield _r(4, 5), _r(5, 6), _r(6), False, False, _r(4, 6), "prelu", 0.0, _r(6), "", "", None
    yield _r(0, 5), _r(5, 6), None, False, False, *PLAIN[2:], "", "", None


POOL: Arguments = ([3, 2], [2, 1], [1, 0])


def _pool(*rest: Any, images: tuple[tuple[int, ...], ...] = ((2, 3, 7, 6), (0, 3, 7, 6))) -> Iterator[Arguments]:
    for shape in images:
        for grad in (False, True):
            yield _r(*shape, grad=grad, last=grad), *rest


def _indices_of(operator: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    y, indices = operator(_r(2, 3, 7, 6), *rest)
    return torch.randn_like(y), indices


def _max_pool_backward() -> Iterator[Arguments]:
    window = (*POOL, [1, 2], True)
    dy, indices = _indices_of(ops.native.max_pool2d, *window, True, "")
    for grad in (False, True):
        yield dy.clone().requires_grad_(grad), indices, [2, 3, 7, 6], *window, ""


def _adaptive_max_backward() -> Iterator[Arguments]:
    dy, indices = _indices_of(ops.native.adaptive_max_pool2d, [3, 4], True, "")
    for grad in (False, True):
        yield dy.clone().requires_grad_(grad), indices, [2, 3, 7, 6], ""


def _activation() -> Iterator[Arguments]:
    for act in functional.ACTIVATIONS:
        alpha = _r(3, grad=True) if act == "prelu" else None
        yield _r(2, 3, 4, 5, grad=True), act, 0.5, alpha, ""
    yield _r(2, 3, 4, 5, last=True), "relu", 0.0, None, ""
    yield _r(2, 3, 4, 5, grad=True), "prelu", 0.0, _r(3, 4, 5, grad=True), ""
    yield _r(4, 6)[::2, ::2], "silu", 0.0, None, ""
    yield _r(4, 6).t(), "silu", 0.0, None, ""
    yield _r(0, 6), "silu", 0.0, None, ""
    yield _r(2, 3, 2, 2, 2, grad=True), "prelu", 0.0, _r(1, grad=True), ""


def _activation_backward() -> Iterator[Arguments]:
    for act in functional.ACTIVATIONS:
        alpha = _r(3) if act == "prelu" else None
        yield _r(2, 3, 4, 5, grad=True), _r(2, 3, 4, 5, grad=True), act, 0.5, alpha, 1, ""
    yield _r(2, 3, 4, 5), _r(2, 3, 4, 5, last=True), "silu", 0.0, None, 2, ""


def _norm(backward: bool) -> Iterator[Arguments]:
    shape = (2, 3, 4, 5)

    def sample(training: bool, affine: bool, added: bool, act: str, alpha: Tensor | None, **how: Any) -> Arguments:
        images = [_r(*shape, **how) for _ in range(2 if backward else 1)]
        weight, bias = (_r(3, grad=True) if affine else None for _ in range(2))
        residual = _r(*shape, **how) if added else None
        return *images, _r(3), _r(3).square(), weight, bias, training, 1e-3, residual, act, 0.5, alpha, ""

    yield sample(True, True, True, "silu", None, grad=True)
    yield sample(False, False, False, "identity", None, last=True)
    yield sample(True, True, False, "prelu", _r(3, grad=not backward), grad=True, last=True)
    yield sample(True, True, True, "relu", None, dtype=torch.bfloat16)


def _block(name: str) -> Iterator[Arguments]:
    for last, dtype in ((False, torch.float32), (True, torch.float32), (True, torch.bfloat16)):
        x, residual = (_r(2, c, 6, 5, last=last, dtype=dtype) for c in (4, 3))
        expand = (_r(6, 4, 1, 1, dtype=dtype), _r(6, dtype=dtype), "prelu", 0.0, _r(6, dtype=dtype))
        channels = 6 if name == "inverted_residual" else 4
        window = (_r(channels, 1, 3, 3, dtype=dtype), None, *WINDOW, "relu6", 0.0, None)
        project = (_r(3, channels, 1, 1, dtype=dtype), _r(3, dtype=dtype), residual, "relu", 0.0, None)
        if name == "inverted_residual":
            yield x, *expand, *window, *project, "", "", None, None, None
        elif name == "depthwise_pointwise":
            yield x, *window, *project, "", "", None, None
        else:
            pool = ([3, 3], [2, 2], [1, 1], [1, 1], last)
            yield x, _r(3, 4, 3, 3, dtype=dtype), None, *WINDOW, 1, "relu", 0.0, None, *pool, "", "", None


SAMPLES: dict[str, Callable[[], Iterator[Arguments]]] = {
    "conv2d": _conv2d,
    "conv2d_stats": _conv2d_stats,
    "upsample_conv2d": _upsample_conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "conv2d_input_grad": _input_grad,
    "conv2d_weight_grad": _weight_grad,
    "gemm": _gemm,
    "inverted_residual": lambda: _block("inverted_residual"),
    "depthwise_pointwise": lambda: _block("depthwise_pointwise"),
    "conv_max_pool": lambda: _block("conv_max_pool"),
    "max_pool2d": lambda: _pool(*POOL, [1, 1], True, True, ""),
    "max_pool2d_backward": _max_pool_backward,
    "avg_pool2d": lambda: _pool(*POOL, True, False, 0, ""),
    "avg_pool2d_backward": lambda: _pool([2, 3, 7, 6], *POOL, False, True, 0, "", images=((2, 3, 4, 5),)),
    "adaptive_avg_pool2d": lambda: _pool([3, 4], ""),
    "adaptive_avg_pool2d_backward": lambda: _pool([2, 3, 7, 6], "", images=((2, 3, 3, 4),)),
    "adaptive_max_pool2d": lambda: _pool([3, 4], True, ""),
    "adaptive_max_pool2d_backward": _adaptive_max_backward,
    "activation": _activation,
    "activation_": lambda: iter([(_r(2, 3, 4), "relu", 0.0, None, ""), (_r(2, 3, 4), "prelu", 0.0, _r(3), "")]),
    "activation_backward": _activation_backward,
    "prelu_alpha_grad": lambda: iter(
        [(_r(2, 3, 4, 5, grad=True), _r(2, 3, 4, 5, grad=True), size, "") for size in ([1], [3], [3, 4, 5])]
    ),
    "softmax": lambda: iter([(_r(2, 3, 4, grad=grad), dim, "") for grad in (False, True) for dim in (-1, 1)]),
    "softmax_backward": lambda: iter([(_r(2, 3, grad=grad), _r(2, 3, grad=grad), 1, "") for grad in (False, True)]),
    "channel_sum": lambda: _pool("", images=((2, 3, 4, 5),)),
    "batch_norm_stats": lambda: _pool("", images=((2, 3, 4, 5),)),
    "batch_norm_act": lambda: _norm(False),
    "batch_norm_act_backward": lambda: _norm(True),
    "im2col": lambda: _pool([3, 2], [2, 1], [1, 0], [1, 2], "", images=((2, 3, 7, 6),)),
    "col2im": lambda: iter(
        [(_r(2, 18, 16, grad=grad), [7, 6], [3, 2], [2, 1], [1, 0], [1, 2], "") for grad in (False, True)]
    ),
    "upsample_nearest2d": lambda: _pool([2, 3], "", images=((2, 3, 4, 5),)),
    "upsample_nearest2d_backward": lambda: _pool([2, 3], "", images=((2, 3, 4, 6),)),
    "pack_conv2d_weight": lambda: iter([(_r(32, 16, 3, 3), 1), (_r(8, 1, 3, 3), 8)]),
    "pack_upsample_weight": lambda: iter([(_r(32, 16, 3, 3), [2, 2], [1, 1], [1, 1, 1, 1], [1, 1], 1)]),
    "pack_transpose_weight": lambda: iter([(_r(16, 32, 3, 3), [2, 2], [1, 1], [1, 1], 1)]),
    "pack_gemm_b": lambda: iter([(_r(16, 32), False), (_r(16, 32), True)]),
}
# A packed weight's size depends on the processor, so these have no fake; a graph packs inside its kernels.
WITHOUT_FAKE = ("pack_conv2d_weight", "pack_upsample_weight", "pack_transpose_weight", "pack_gemm_b")
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def test_every_operator_has_samples() -> None:
    assert sorted(SAMPLES) == sorted(ops.operator_names())


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name in SAMPLES for check in CHECKS[: 1 if name in WITHOUT_FAKE else None]]
)
def test_opcheck(name: str, check: str) -> None:
    for arguments in SAMPLES[name]():
        torch.library.opcheck(getattr(ops.native, name), arguments, test_utils=check)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in WITHOUT_FAKE])
def test_fakes_have_the_strides_of_the_results(name: str) -> None:
    """opcheck compares strides only where they matter to it; a compiled graph relies on all of them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for arguments in SAMPLES[name]():
        plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        with torch.no_grad():
            real = getattr(ops.native, name)(*plain)
        with FakeTensorMode() as mode, torch.no_grad():
            shaped = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in plain]
            fake = getattr(ops.native, name)(*shaped)
        for y, z in zip(*((r,) if isinstance(r, Tensor) else r or () for r in (real, fake)), strict=True):
            assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())


# ---- torch.compile -----------------------------------------------------------------------------------------------


class SmallNet(nn.Module):
    """One of everything that a network calls, through fastconv.functional."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.depthwise = nn.Parameter(torch.randn(8, 1, 3, 3) * 0.3)
        self.bias = nn.Parameter(torch.randn(8))
        self.alpha = nn.Parameter(torch.rand(8))
        self.up = nn.Parameter(torch.randn(4, 8, 3, 3) * 0.1)
        self.head = nn.Parameter(torch.randn(5, 16) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.conv2d(x, self.stem, self.bias, stride=2, padding=1, act="relu6")
        y = functional.conv2d(
            y, self.depthwise, padding="same", groups=8, residual=y, act="prelu", act_param=self.alpha
        )
        y = functional.max_pool2d(y, 3, 2, 1)
        y = functional.upsample_conv2d(y, self.up, padding=1, act="silu")
        y = functional.avg_pool2d(functional.hardswish(y), 2)
        y = functional.adaptive_avg_pool2d(y, 2)
        return functional.softmax(functional.linear(y.flatten(1), self.head, act="leaky_relu"), 1)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
def test_compile_without_a_graph_break(train: bool, dynamic: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net = SmallNet()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (16, 22) if dynamic else (16,):
        x = torch.randn(2, 3, size, size)
        with torch.set_grad_enabled(train):
            expected, y = net(x), compiled(x)
        torch.testing.assert_close(y, expected)
        if not train:
            continue
        wanted = list(net.parameters())
        dy = torch.randn_like(expected)
        pairs = zip(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(expected, wanted, dy), strict=True)
        for ours, eager in pairs:
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
    # Checks and fakes must not tie the graph to one image size.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_compiled_graph_keeps_the_backend_it_was_captured_under(backend: str) -> None:
    torch._dynamo.reset()
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    compiled = torch.compile(lambda x: functional.conv2d(x, w, padding=1), fullgraph=True, backend="aot_eager")
    with fastconv.backend(backend), torch.no_grad():
        y = compiled(x)
    torch.testing.assert_close(y, torch_f.conv2d(x, w, padding=1))


def test_compiled_code_raises_torchs_errors() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functional.conv2d, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="to have 3 channels, but got 4 channels instead"):
        compiled(torch.randn(1, 4, 5, 5), torch.randn(4, 3, 3, 3))


def test_export() -> None:
    net = SmallNet().eval()
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(net, (x,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"fastconv.conv2d.default", "fastconv.upsample_conv2d.default", "fastconv.gemm.default"} <= names
    torch.testing.assert_close(program.module()(x), net(x))
