"""Bad input that torch refuses: its class and its words."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

import fastconv
from fastconv import functional

r = torch.randn
# torch's functions under our names.
TORCH: Any = SimpleNamespace(
    **{name: getattr(torch_f, name) for name in functional.__all__ if hasattr(torch_f, name)},
    sigmoid_=torch.sigmoid,
    im2col=lambda x, k, stride=1, padding=0, dilation=1: torch_f.unfold(x, k, dilation, padding, stride),
    col2im=lambda x, size, k, stride=1, padding=0, dilation=1: torch_f.fold(x, size, k, dilation, padding, stride),
    gemm=torch.mm,
)
Call = Callable[[Any], Any]


def x() -> Tensor:
    return r(1, 3, 5, 5)


def w(*shape: int) -> Tensor:
    return r(*(shape or (4, 3, 3, 3)))


def refusal(call: Call, namespace: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call(namespace)
    return caught.value


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


# ---- where torch refuses, with the same words --------------------------------------------------------------------

SAME: dict[str, Call] = {
    "conv2d channels": lambda f: f.conv2d(r(1, 4, 5, 5), w()),
    "conv2d channels of groups": lambda f: f.conv2d(r(1, 4, 5, 5), w(4, 4, 3, 3), groups=2),
    "conv2d unbatched channels": lambda f: f.conv2d(r(4, 5, 5), w()),
    "conv2d groups do not divide": lambda f: f.conv2d(r(1, 4, 5, 5), w(3, 2, 3, 3), groups=2),
    "conv2d more groups than filters": lambda f: f.conv2d(x(), w(), groups=7),
    "conv2d groups 0": lambda f: f.conv2d(x(), w(), groups=0),
    "conv2d groups -1": lambda f: f.conv2d(x(), w(), groups=-1),
    "conv2d huge groups": lambda f: f.conv2d(x(), w(), groups=2**62),
    "conv2d kernel": lambda f: f.conv2d(x(), w(4, 3, 7, 7)),
    "conv2d kernel beyond padding": lambda f: f.conv2d(x(), w(4, 3, 9, 7), padding=(1, 0)),
    "conv2d dilated kernel": lambda f: f.conv2d(x(), w(), dilation=3),
    "conv2d kernel and empty batch": lambda f: f.conv2d(r(0, 3, 5, 5), w(4, 3, 9, 9)),
    "conv2d kernel 0": lambda f: f.conv2d(x(), w(4, 3, 0, 3)),
    "conv2d no filters": lambda f: f.conv2d(x(), w(0, 3, 3, 3)),
    "conv2d empty image": lambda f: f.conv2d(r(1, 3, 0, 5), w()),
    "conv2d empty padded image": lambda f: f.conv2d(r(1, 3, 0, 5), w(), padding=2),
    "conv2d padding name": lambda f: f.conv2d(x(), w(), padding="full"),
    "conv2d same with stride": lambda f: f.conv2d(x(), w(), stride=2, padding="same"),
    "conv2d padding -1": lambda f: f.conv2d(x(), w(), padding=-1),
    "conv2d padding of 3": lambda f: f.conv2d(x(), w(), padding=(1, 1, 1)),
    "conv2d stride 0": lambda f: f.conv2d(x(), w(), stride=0),
    "conv2d stride -1": lambda f: f.conv2d(x(), w(), stride=(1, -1)),
    "conv2d stride of 3": lambda f: f.conv2d(x(), w(), stride=(1, 1, 1)),
    "conv2d stride of none": lambda f: f.conv2d(x(), w(), stride=()),
    "conv2d dilation 0": lambda f: f.conv2d(x(), w(), dilation=0),
    "conv2d dilation -1": lambda f: f.conv2d(x(), w(), dilation=(-1, 1)),
    "conv2d dilation of 3": lambda f: f.conv2d(x(), w(), dilation=(1, 1, 1)),
    "conv2d bias dtype": lambda f: f.conv2d(x(), w(), r(4).double()),
    "conv2d bias length": lambda f: f.conv2d(x(), w(), r(5)),
    "conv2d bias dimensions": lambda f: f.conv2d(x(), w(), r(4, 1)),
    "conv2d 2-D": lambda f: f.conv2d(r(5, 5), w()),
    "conv2d 5-D": lambda f: f.conv2d(r(1, 1, 3, 5, 5), w()),
    "conv2d 3-D weight": lambda f: f.conv2d(x(), w(3, 3, 3)),
    "conv_transpose2d output_padding": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), output_padding=1),
    "conv_transpose2d output_padding -1": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), None, 2, 0, -1),
    "conv_transpose2d padding -1": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), padding=-1),
    "conv_transpose2d stride 0": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), stride=0),
    "conv_transpose2d dilation 0": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), dilation=0),
    "conv_transpose2d bias": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), r(5)),
    "conv_transpose2d groups": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), groups=2),
    "conv_transpose2d channels": lambda f: f.conv_transpose2d(r(1, 5, 4, 4), w(3, 4, 3, 3)),
    "conv_transpose2d 2-D": lambda f: f.conv_transpose2d(r(5, 5), w(3, 4, 3, 3)),
    "conv_transpose2d nothing left": lambda f: f.conv_transpose2d(r(1, 3, 1, 1), w(3, 4, 3, 3), padding=3),
    "conv_transpose2d empty image": lambda f: f.conv_transpose2d(r(1, 3, 0, 5), w(3, 4, 3, 3)),
    "max_pool2d 2-D": lambda f: f.max_pool2d(r(5, 5), 2),
    "max_pool2d 5-D": lambda f: f.max_pool2d(r(1, 1, 1, 5, 5), 2),
    "max_pool2d kernel 0": lambda f: f.max_pool2d(x(), 0),
    "max_pool2d kernel -1": lambda f: f.max_pool2d(x(), -1),
    "max_pool2d kernel of 3": lambda f: f.max_pool2d(x(), (1, 2, 3)),
    "max_pool2d stride 0": lambda f: f.max_pool2d(x(), 2, 0),
    "max_pool2d stride of 3": lambda f: f.max_pool2d(x(), 2, (1, 2, 3)),
    "max_pool2d padding": lambda f: f.max_pool2d(x(), 2, padding=2),
    "max_pool2d padding -1": lambda f: f.max_pool2d(x(), 2, padding=-1),
    "max_pool2d padding of 3": lambda f: f.max_pool2d(x(), 2, padding=(1, 1, 1)),
    "max_pool2d dilation 0": lambda f: f.max_pool2d(x(), 2, dilation=0),
    "max_pool2d dilation of 3": lambda f: f.max_pool2d(x(), 2, dilation=(1, 1, 1)),
    "max_pool2d no window": lambda f: f.max_pool2d(x(), 7),
    "max_pool2d no channels": lambda f: f.max_pool2d(r(1, 0, 5, 5), 2),
    "max_pool2d empty image": lambda f: f.max_pool2d(r(1, 3, 0, 5), 2),
    "avg_pool2d 2-D": lambda f: f.avg_pool2d(r(5, 5), 2),
    "avg_pool2d kernel 0": lambda f: f.avg_pool2d(x(), 0),
    "avg_pool2d kernel of 3": lambda f: f.avg_pool2d(x(), (1, 2, 3)),
    "avg_pool2d stride 0": lambda f: f.avg_pool2d(x(), 2, 0),
    "avg_pool2d stride of 3": lambda f: f.avg_pool2d(x(), 2, (1, 2, 3)),
    "avg_pool2d padding": lambda f: f.avg_pool2d(x(), 2, padding=2),
    "avg_pool2d padding of 3": lambda f: f.avg_pool2d(x(), 2, padding=(1, 1, 1)),
    "avg_pool2d no window": lambda f: f.avg_pool2d(x(), 7),
    "avg_pool2d no channels": lambda f: f.avg_pool2d(r(1, 0, 5, 5), 2),
    "avg_pool2d empty image": lambda f: f.avg_pool2d(r(1, 3, 0, 5), 2),
    "avg_pool2d divisor 0": lambda f: f.avg_pool2d(x(), 2, divisor_override=0),
    "adaptive_avg_pool2d 2-D": lambda f: f.adaptive_avg_pool2d(r(5, 5), 2),
    "adaptive_avg_pool2d 5-D": lambda f: f.adaptive_avg_pool2d(r(1, 1, 1, 5, 5), 2),
    "adaptive_avg_pool2d size -1": lambda f: f.adaptive_avg_pool2d(x(), -1),
    "adaptive_avg_pool2d size of 3": lambda f: f.adaptive_avg_pool2d(x(), (1, 2, 3)),
    "adaptive_avg_pool2d empty image": lambda f: f.adaptive_avg_pool2d(r(1, 3, 0, 5), 2),
    "adaptive_max_pool2d 2-D": lambda f: f.adaptive_max_pool2d(r(5, 5), 2),
    "adaptive_max_pool2d size -1": lambda f: f.adaptive_max_pool2d(x(), -1),
    "adaptive_max_pool2d size of 3": lambda f: f.adaptive_max_pool2d(x(), (1, 2, 3)),
    "adaptive_max_pool2d empty image": lambda f: f.adaptive_max_pool2d(r(1, 3, 0, 5), 2),
    "adaptive_max_pool2d no channels": lambda f: f.adaptive_max_pool2d(r(1, 0, 5, 5), 2),
    "prelu count": lambda f: f.prelu(x(), r(4)),
    "prelu no weight": lambda f: f.prelu(x(), r(0)),
    "prelu shape": lambda f: f.prelu(x(), r(3, 5)),
    "prelu 0-D": lambda f: f.prelu(r(()), r(2)),
    "prelu dtype": lambda f: f.prelu(x(), r(3).double()),
    "prelu number": lambda f: f.prelu(x(), 0.1),
    "relu of a leaf in place": lambda f: f.relu(r(3, requires_grad=True), inplace=True),
    "relu of one element many times": lambda f: f.relu(r(1).expand(3), inplace=True),
    "relu bool": lambda f: f.relu(torch.ones(3, dtype=torch.bool)),
    "softmax dim": lambda f: f.softmax(x(), 4),
    "softmax dim below": lambda f: f.softmax(x(), -5),
    "softmax dim of 0-D": lambda f: f.softmax(r(()), 1),
    "linear": lambda f: f.linear(r(2, 3), r(4, 5)),
    "linear 1-D": lambda f: f.linear(r(4), r(4, 5)),
    "linear 0-D": lambda f: f.linear(r(()), r(4, 3)),
    "linear bias": lambda f: f.linear(r(2, 3), r(4, 3), r(5)),
    "linear dtype": lambda f: f.linear(r(2, 3), r(4, 3).double()),
    "linear 3-D weight": lambda f: f.linear(r(2, 3), r(1, 4, 3)),
    "gemm": lambda f: f.gemm(r(2, 3), r(4, 5)),
    "gemm dtype": lambda f: f.gemm(r(2, 3), r(3, 5).double()),
    "im2col 2-D": lambda f: f.im2col(r(5, 5), 2),
    "im2col no window": lambda f: f.im2col(x(), 7),
    "im2col kernel 0": lambda f: f.im2col(x(), 0),
    "im2col kernel of 3": lambda f: f.im2col(x(), (1, 2, 3)),
    "im2col stride 0": lambda f: f.im2col(x(), 2, stride=0),
    "im2col padding -1": lambda f: f.im2col(x(), 2, padding=-1),
    "im2col dilation 0": lambda f: f.im2col(x(), 2, dilation=0),
    "im2col no channels": lambda f: f.im2col(r(1, 0, 5, 5), 2),
    "col2im rows": lambda f: f.col2im(r(1, 13, 16), 5, 2),
    "col2im columns": lambda f: f.col2im(r(1, 12, 15), 5, 2),
    "col2im 1-D": lambda f: f.col2im(r(12), 5, 2),
    "col2im size of 3": lambda f: f.col2im(r(1, 12, 16), (5, 5, 5), 2),
    "col2im size -5": lambda f: f.col2im(r(1, 12, 16), -5, 2),
    "col2im kernel 0": lambda f: f.col2im(r(1, 12, 16), 5, 0),
    "col2im stride 0": lambda f: f.col2im(r(1, 12, 16), 5, 2, stride=0),
    "col2im padding -1": lambda f: f.col2im(r(1, 12, 16), 5, 2, padding=-1),
    "col2im dilation 0": lambda f: f.col2im(r(1, 12, 16), 5, 2, dilation=0),
}


ON_CPU = ("cpu", "reference", "cuda_emulated", "triton_interpreted")
BACKENDS = [name for name in ON_CPU if not fastconv.backends.why_unavailable(name)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", SAME.values(), ids=SAME)
def test_torchs_class_and_words(call: Call, backend: str) -> None:
    theirs = refusal(call, TORCH)
    with fastconv.backend(backend):
        ours = refusal(call, functional)
    if backend not in ("cpu", "reference") and f"backend {backend} has no" in str(ours):
        pytest.skip("this backend does not have the operator yet")
    assert type(ours) is type(theirs), f"{ours!r}, not {theirs!r}"
    assert first_line(ours) == first_line(theirs)


def test_conv2d_dtypes_must_agree() -> None:
    """torch has two texts for this, by platform: its layer's documentation shows this one."""
    with pytest.raises(RuntimeError, match=r"^Input type \(float\) and weight type \(double\) should be the same$"):
        functional.conv2d(x(), w().double())


# torch's TypeErrors come from its argument parser and show whole signatures: the class, and the argument's name.
TYPES: dict[str, tuple[Call, str]] = {
    "conv2d no input": (lambda f: f.conv2d(None, w()), "input"),
    "conv2d list": (lambda f: f.conv2d([[1.0]], w()), "input"),
    "conv2d no weight": (lambda f: f.conv2d(x(), None), "weight"),
    "conv2d number for bias": (lambda f: f.conv2d(x(), w(), 1.0), "bias"),
    "conv2d fractional stride": (lambda f: f.conv2d(x(), w(), stride=1.5), "stride"),
    "conv2d stride name": (lambda f: f.conv2d(x(), w(), stride="same"), "stride"),
    "conv2d no stride": (lambda f: f.conv2d(x(), w(), stride=None), "stride"),
    "conv2d fractional padding": (lambda f: f.conv2d(x(), w(), padding=(1, 0.5)), "padding"),
    "conv2d no padding": (lambda f: f.conv2d(x(), w(), padding=None), "padding"),
    "conv2d no dilation": (lambda f: f.conv2d(x(), w(), dilation=None), "dilation"),
    "conv2d fractional groups": (lambda f: f.conv2d(x(), w(), groups=1.5), "groups"),
    "conv2d boolean stride": (lambda f: f.conv2d(x(), w(), stride=True), "stride"),
    "conv_transpose2d padding name": (lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3), padding="same"), "padding"),
    "max_pool2d no input": (lambda f: f.max_pool2d(None, 2), "input"),
    "max_pool2d fractional kernel": (lambda f: f.max_pool2d(x(), 2.5), "kernel_size"),
    "max_pool2d no kernel": (lambda f: f.max_pool2d(x(), None), "kernel_size"),
    "avg_pool2d no input": (lambda f: f.avg_pool2d(None, 2), "input"),
    "avg_pool2d fractional stride": (lambda f: f.avg_pool2d(x(), 2, 1.5), "stride"),
    "adaptive_avg_pool2d fraction": (lambda f: f.adaptive_avg_pool2d(x(), 2.5), ""),
    "adaptive_max_pool2d name": (lambda f: f.adaptive_max_pool2d(x(), ("a", "b")), ""),
    "relu no input": (lambda f: f.relu(None), "input"),
    "prelu no input": (lambda f: f.prelu(None, r(1)), "input"),
    "leaky_relu slope": (lambda f: f.leaky_relu(x(), "steep"), ""),
    "linear no weight": (lambda f: f.linear(x(), None), "weight"),
    "linear bias": (lambda f: f.linear(r(2, 3), r(4, 3), 1.0), "bias"),
    "im2col no input": (lambda f: f.im2col(None, 2), ""),
    "im2col fractional kernel": (lambda f: f.im2col(x(), 2.5), ""),
}


@pytest.mark.parametrize(("call", "name"), TYPES.values(), ids=TYPES)
def test_wrong_types(call: Call, name: str) -> None:
    assert type(refusal(call, TORCH)) is TypeError
    ours = refusal(call, functional)
    assert type(ours) is TypeError, repr(ours)
    assert name in str(ours)
