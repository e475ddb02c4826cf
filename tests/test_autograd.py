"""How autograd and the functions meet: what is recorded, computed, kept, refused, and with which layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor
from torch.autograd import gradcheck

from fastconv import functional

# Every function with operands that it differentiates, in float32.
CALLS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (lambda x, w, b: functional.conv2d(x, w, b, padding=1), ((2, 4, 6, 5), (8, 4, 3, 3), (8,))),
    "conv2d_fused": (
        lambda x, w, s, r: functional.conv2d(x, w, padding=1, scale=s, residual=r, act="relu6"),
        ((2, 4, 6, 5), (8, 4, 3, 3), (8,), (2, 8, 6, 5)),
    ),
    "conv2d_prelu": (
        lambda x, w, a: functional.conv2d(x, w, act="prelu", act_param=a),
        ((2, 4, 6, 5), (8, 4, 3, 3), (8,)),
    ),
    "depthwise": (lambda x, w: functional.conv2d(x, w, groups=4), ((2, 4, 6, 5), (4, 1, 3, 3))),
    "conv_transpose2d": (
        lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2),
        ((2, 4, 3, 5), (4, 6, 3, 3), (6,)),
    ),
    "upsample_conv2d": (lambda x, w: functional.upsample_conv2d(x, w, padding=1), ((2, 4, 3, 5), (6, 4, 3, 3))),
    "gemm": (functional.gemm, ((9, 4), (4, 6), (6,))),
    "linear": (functional.linear, ((2, 9, 4), (6, 4), (6,))),
    "max_pool2d": (lambda x: functional.max_pool2d(x, 2), ((2, 3, 6, 6),)),
    "avg_pool2d": (lambda x: functional.avg_pool2d(x, 2), ((2, 3, 6, 6),)),
    "adaptive_avg_pool2d": (lambda x: functional.adaptive_avg_pool2d(x, 4), ((2, 3, 6, 6),)),
    "adaptive_max_pool2d": (lambda x: functional.adaptive_max_pool2d(x, 4), ((2, 3, 6, 6),)),
    "prelu": (functional.prelu, ((2, 3, 4), (3,))),
    "silu": (functional.silu, ((2, 3, 4),)),
    "softmax": (lambda x: functional.softmax(x, -1), ((2, 3, 4),)),
    "im2col": (lambda x: functional.im2col(x, 2), ((2, 3, 4, 4),)),
    "col2im": (lambda x: functional.col2im(x, 4, 2), ((2, 12, 9),)),
}
each_call = pytest.mark.parametrize(("function", "shapes"), CALLS.values(), ids=CALLS)


def _operands(shapes: tuple[tuple[int, ...], ...], requires_grad: bool = True) -> list[Tensor]:
    return [torch.randn(shape, requires_grad=requires_grad) for shape in shapes]


@each_call
def test_values_do_not_depend_on_whether_autograd_records(function: Any, shapes: Any) -> None:
    operands = _operands(shapes)
    recorded = function(*operands)
    assert recorded.requires_grad
    with torch.no_grad():
        silent = function(*operands)
    with torch.inference_mode():
        inference = function(*operands)
        of_inference_tensors = function(*(t.clone() for t in operands))
    plain = function(*(t.detach() for t in operands))
    assert not (silent.requires_grad or inference.requires_grad or plain.requires_grad)
    assert inference.is_inference() and not silent.is_inference()
    for y in (silent, inference, of_inference_tensors, plain):
        assert y.stride() == recorded.stride()
        # The fused kernels round once where the recorded call rounds after every step.
        torch.testing.assert_close(y, recorded.detach(), rtol=1e-5, atol=1e-5)


@each_call
def test_each_operand_alone(function: Any, shapes: Any) -> None:
    """Only what is asked for is computed, and it does not depend on what else is asked for."""
    operands = _operands(shapes)
    y = function(*operands)
    dy = torch.randn_like(y)
    together = torch.autograd.grad(y, operands, dy)
    for i, expected in enumerate(together):
        alone = [t.detach().requires_grad_(j == i) for j, t in enumerate(operands)]
        y = function(*alone)
        y.backward(dy)
        assert [t.grad is not None for t in alone] == [j == i for j in range(len(alone))]
        torch.testing.assert_close(alone[i].grad, expected, rtol=1e-5, atol=1e-5)


@each_call
def test_retained_graph_gives_the_same_gradients_again(function: Any, shapes: Any) -> None:
    operands = _operands(shapes)
    y = function(*operands)
    dy = torch.randn_like(y)
    first = torch.autograd.grad(y, operands, dy, retain_graph=True)
    second = torch.autograd.grad(y, operands, dy)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if y.grad_fn.next_functions and function is CALLS["conv2d"][0]:
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(y, operands, dy)


def _spread(t: Tensor) -> Tensor:
    """The same values, every second element of something larger."""
    large = t.new_full([2 * size for size in t.shape], float("nan"))
    inside = large[tuple(slice(None, None, 2) for _ in t.shape)]
    inside.copy_(t.detach())
    return inside


@each_call
def test_strided_operands_and_output_gradients(function: Any, shapes: Any) -> None:
    operands = _operands(shapes)
    y = function(*operands)
    dy = torch.randn(y.shape)
    expected = torch.autograd.grad(y, operands, dy)
    leaves = [_spread(t).requires_grad_() for t in operands]
    strided = function(*leaves)
    torch.testing.assert_close(strided, y, rtol=1e-5, atol=1e-5)
    for form in (_spread(dy), dy.transpose(-1, -2).contiguous().transpose(-1, -2)):
        got = torch.autograd.grad(strided, leaves, form, retain_graph=True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    ones = torch.autograd.grad(strided.sum(), leaves)  # dy is one number with all strides zero
    for a, b in zip(ones, torch.autograd.grad(function(*operands).sum(), operands), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class _Calls(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["input", "weight", "bias"])
def test_conv2d_computes_only_the_wanted_gradient(wanted: int) -> None:
    kernels = ("fastconv.conv2d_input_grad", "fastconv.conv2d_weight_grad", "fastconv.channel_sum")
    operands = _operands(((2, 4, 6, 5), (8, 4, 3, 3), (8,)), requires_grad=False)
    operands[wanted].requires_grad_()
    y = functional.conv2d(*operands)
    with _Calls() as calls:
        y.sum().backward()
    ran = [kernel for kernel in kernels if any(name.startswith(kernel) for name in calls.names)]
    assert ran == [kernels[wanted]]


def test_gradients_accumulate_over_shared_weights() -> None:
    x, w = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 4, 4, 4), (4, 4, 3, 3)))
    gradcheck(lambda x, w: functional.conv2d(functional.conv2d(x, w, padding=1), w, padding=1), (x, w), fast_mode=True)


def test_an_in_place_change_of_a_saved_tensor_is_noticed() -> None:
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    y = functional.conv2d(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_empty_batches_have_zero_weight_gradients() -> None:
    x, w, b = torch.randn(0, 3, 5, 5, requires_grad=True), torch.randn(4, 3, 3, 3), torch.zeros(4)
    w.requires_grad_()
    b.requires_grad_()
    functional.conv2d(x, w, b).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    for t in (w, b):
        assert t.grad is not None and t.grad.shape == t.shape and not t.grad.any()


def test_max_pool2d_sends_the_gradient_to_the_first_of_equals() -> None:
    ours, theirs = (torch.zeros(1, 1, 6, 6, requires_grad=True) for _ in range(2))
    functional.max_pool2d(ours, 3, 2, 1).sum().backward()
    torch_f.max_pool2d(theirs, 3, 2, 1).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("act", ("relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "elu"))
def test_gradients_on_the_kinks_are_torchs(act: str) -> None:
    points = torch.tensor([-3.0, 0.0, -0.0, 3.0, 6.0])
    ours, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    getattr(functional, act)(ours).sum().backward()
    getattr(torch_f, act)(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-7)
