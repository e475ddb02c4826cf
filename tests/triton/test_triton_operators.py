"""The namespace fastconv_triton as torch sees it: schemas, fakes, derivatives, torch.compile, threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from test_ops_opcheck import SAMPLES, SmallNet
from threads import at_once
from torch import Tensor

import fastconv
from fastconv import backends, functional, ops
from fastconv.triton.operators import IMPLEMENTATIONS

pytestmark = pytest.mark.skipif(
    backends.why_unavailable("triton_interpreted") is not None, reason="Triton is not installed"
)
NAMES = [name for name in SAMPLES if name in IMPLEMENTATIONS]


def _interpreted(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Samples name no backend: the last string of every schema."""
    last = max(i for i, a in enumerate(arguments) if isinstance(a, str))
    return *arguments[:last], "triton_interpreted", *arguments[last + 1 :]


def test_every_operator_but_packing_is_there() -> None:
    assert {name for name in ops.native if name in ops.fakes.FAKES} == set(ops.triton)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    for arguments in list(SAMPLES[name]())[:2]:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(getattr(ops.triton, name), _interpreted(arguments), test_utils=checks)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_cpu(name: str) -> None:
    """Values, and strides: both backends follow one fake."""
    for arguments in SAMPLES[name]():
        plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        mine = [a.clone() if isinstance(a, Tensor) and name == "activation_" else a for a in plain]
        expected = getattr(ops.native, name)(*plain)
        y = getattr(ops.triton, name)(*_interpreted(tuple(mine)))
        if name == "activation_":
            expected, y = plain[0], mine[0]
        for ours, theirs in zip(*((r,) if isinstance(r, Tensor) else r for r in (y, expected)), strict=True):
            assert ours.stride() == theirs.stride()
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 if ours.dtype != torch.bfloat16 else 2e-2)


def test_a_network_trains_and_compiles() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, x = SmallNet(), torch.randn(2, 3, 16, 16)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    wanted = list(net.parameters())
    expected = net(x)
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    with fastconv.backend("triton_interpreted"):
        for call in (net, compiled):
            y = call(x)
            torch.testing.assert_close(y, expected)
            for ours, theirs in zip(torch.autograd.grad(y.square().sum(), wanted), gradients, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_gradients() -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    with fastconv.backend("triton_interpreted"):
        call = lambda x, w: functional.conv2d(x, w, stride=2, padding=1, groups=2, act="tanh")  # noqa: E731
        assert torch.autograd.gradcheck(call, (x, w), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (x, w), fast_mode=True)


def test_the_language_is_left_as_it_was() -> None:
    """Compiling for a GPU in the same process must still work after a call of the interpreter, a failed one too."""
    import triton.language as tl

    before = {place: dict(vars(place)) for place in (tl, tl.core, tl.core.tensor)}
    with fastconv.backend("triton_interpreted"):
        functional.relu(torch.randn(5))
    assert {place: dict(vars(place)) for place in before} == before


def test_threads_take_turns() -> None:
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)

    def work(index: int) -> None:
        with fastconv.backend("triton_interpreted"), torch.no_grad():
            y = functional.conv2d(x + index, w)
        torch.testing.assert_close(y, torch_f.conv2d(x + index, w), rtol=1e-4, atol=1e-5)

    at_once(work, 4)


def test_the_same_bits_every_time() -> None:
    x = torch.randn(3, 5, 17, 13)
    dy = torch.randn(3, 7, 15, 11)
    arguments = (dy, x, [7, 5, 3, 3], [1, 1], [0] * 4, [1, 1], 1, "", "triton_interpreted")
    first = ops.triton.conv2d_weight_grad(*arguments)
    assert torch.equal(first, ops.triton.conv2d_weight_grad(*arguments))
