"""Bad input: torch's class and torch's words where torch refuses too, and a reason wherever only we refuse."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

import fastconv
from fastconv import functional, ops

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


@pytest.mark.parametrize("call", SAME.values(), ids=SAME)
def test_torchs_class_and_words(call: Call) -> None:
    theirs, ours = refusal(call, TORCH), refusal(call, functional)
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


# ---- what only we refuse -----------------------------------------------------------------------------------------

EVERY: dict[str, Callable[[Tensor], Any]] = {
    "conv2d": lambda t: functional.conv2d(t, torch.ones(4, 3, 3, 3, dtype=t.dtype)),
    "upsample_conv2d": lambda t: functional.upsample_conv2d(t, torch.ones(4, 3, 3, 3, dtype=t.dtype)),
    "conv_transpose2d": lambda t: functional.conv_transpose2d(t, torch.ones(3, 4, 3, 3, dtype=t.dtype)),
    "gemm": lambda t: functional.gemm(t[0, 0], t[0, 1]),
    "linear": lambda t: functional.linear(t[0, 0], t[0, 1]),
    "max_pool2d": lambda t: functional.max_pool2d(t, 2),
    "avg_pool2d": lambda t: functional.avg_pool2d(t, 2),
    "adaptive_avg_pool2d": lambda t: functional.adaptive_avg_pool2d(t, 2),
    "adaptive_max_pool2d": lambda t: functional.adaptive_max_pool2d(t, 2),
    "prelu": lambda t: functional.prelu(t, torch.ones(3, dtype=t.dtype)),
    "relu": functional.relu,
    "sigmoid": functional.sigmoid,
    "softmax": lambda t: functional.softmax(t, 1),
    "im2col": lambda t: functional.im2col(t, 2),
    "col2im": lambda t: functional.col2im(t.reshape(1, 3, 25), 5, 1),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_unsupported_dtypes_say_which_are_supported(name: str, dtype: torch.dtype) -> None:
    text = str(dtype).removeprefix("torch.")
    with pytest.raises(NotImplementedError, match=rf"{text}.*float32, float64, float16, bfloat16"):
        EVERY[name](torch.ones(1, 3, 5, 5).to(dtype))


@pytest.mark.parametrize("name", EVERY)
def test_all_operands_on_the_meta_device(name: str) -> None:
    """Shape propagation is what that device is for."""
    real = EVERY[name](x())
    with torch.device("meta"):
        y = EVERY[name](torch.empty(1, 3, 5, 5))
    assert (y.device.type, y.shape, y.dtype, y.stride()) == ("meta", real.shape, real.dtype, real.stride())


MIXED: dict[str, Call] = {
    "conv2d weight": lambda f: f.conv2d(x(), w().to("meta")),
    "conv2d input": lambda f: f.conv2d(x().to("meta"), w()),
    "conv2d bias": lambda f: f.conv2d(x(), w(), r(4, device="meta")),
    "conv2d scale": lambda f: f.conv2d(x(), w(), scale=r(4, device="meta")),
    "conv2d residual": lambda f: f.conv2d(x(), w(), residual=r(1, 4, 3, 3, device="meta")),
    "conv2d alpha": lambda f: f.conv2d(x(), w(), act="prelu", act_param=r(4, device="meta")),
    "conv_transpose2d weight": lambda f: f.conv_transpose2d(x(), w(3, 4, 3, 3).to("meta")),
    "upsample_conv2d weight": lambda f: f.upsample_conv2d(x(), w().to("meta")),
    "gemm b": lambda f: f.gemm(r(2, 3), r(3, 4, device="meta")),
    "gemm residual": lambda f: f.gemm(r(2, 3), r(3, 4), residual=r(2, 4, device="meta")),
    "linear weight": lambda f: f.linear(r(2, 3), r(4, 3, device="meta")),
    "linear bias": lambda f: f.linear(r(2, 3), r(4, 3), r(4, device="meta")),
    "prelu weight": lambda f: f.prelu(x(), r(3, device="meta")),
    "prelu one weight": lambda f: f.prelu(x(), r(1, device="meta")),
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("call", MIXED.values(), ids=MIXED)
def test_mixed_devices(call: Call, grad: bool) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="on the same device"):
        call(functional)


FITS: dict[str, tuple[Call, str]] = {
    "scale": (lambda f: f.conv2d(x(), w(), scale=r(3)), r"scale .*\[4\].*\[3\]"),
    "scale 2-D": (lambda f: f.conv2d(x(), w(), scale=r(4, 1)), r"scale .*\[4\].*\[4, 1\]"),
    "scale number": (lambda f: f.conv2d(x(), w(), scale=2.0), r"scale .*\[4\].*2\.0"),
    "shift": (lambda f: f.conv2d(x(), w(), shift=r(5)), r"shift .*\[4\].*\[5\]"),
    "residual": (lambda f: f.conv2d(x(), w(), residual=r(1, 4, 5, 5)), r"residual .*\[1, 4, 3, 3\].*\[1, 4, 5, 5\]"),
    "residual that would broadcast": (lambda f: f.conv2d(x(), w(), residual=r(4, 1, 1)), "residual"),
    "residual dtype": (lambda f: f.conv2d(x(), w(), residual=r(1, 4, 3, 3).half()), "residual .*dtype"),
    "alpha": (lambda f: f.conv2d(x(), w(), act="prelu", act_param=r(3)), r"act_param .*\[4\].*\[4, 3, 3\].*\[3\]"),
    "alpha of the input's shape": (lambda f: f.conv2d(x(), w(), act="prelu", act_param=r(3, 5, 5)), "act_param"),
    "prelu without alpha": (lambda f: f.conv2d(x(), w(), act="prelu"), "act_param .*tensor"),
    "prelu with a number": (lambda f: f.conv2d(x(), w(), act="prelu", act_param=0.1), "act_param .*tensor"),
    "relu with alpha": (lambda f: f.conv2d(x(), w(), act="relu", act_param=r(4)), "act_param .*number"),
    "upsample scale_factor 0": (lambda f: f.upsample_conv2d(x(), w(), scale_factor=0), "scale_factor"),
    "upsample scale_factor -2": (lambda f: f.upsample_conv2d(x(), w(), scale_factor=-2), "scale_factor"),
    "upsample residual": (lambda f: f.upsample_conv2d(x(), w(), residual=r(1, 4, 3, 3)), "residual"),
    "gemm bias": (lambda f: f.gemm(r(2, 3), r(3, 4), r(2)), r"bias .*\[4\].*\[2\]"),
    "gemm residual": (lambda f: f.gemm(r(2, 3), r(3, 4), residual=r(3, 4)), r"residual .*\[2, 4\].*\[3, 4\]"),
    "gemm alpha": (lambda f: f.gemm(r(2, 3), r(3, 4), act="prelu", act_param=r(2)), "act_param"),
    "gemm batches": (lambda f: f.gemm(r(2, 3, 4), r(3, 4, 5)), "batch"),
    "gemm batch and matrix": (lambda f: f.gemm(r(2, 3, 4), r(4, 5)), "matrices"),
    "gemm vector": (lambda f: f.gemm(r(3), r(3, 4)), "matrices"),
    "gemm 4-D": (lambda f: f.gemm(r(1, 1, 2, 3), r(1, 1, 3, 4)), "matrices"),
    "linear residual": (lambda f: f.linear(r(2, 3), r(4, 3), residual=r(4)), "residual"),
    "bn statistics": (lambda f: f.conv2d_bn_act(x(), w(), None, r(3), r(3), None, None), "running_mean"),
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(("call", "text"), FITS.values(), ids=FITS)
def test_fused_operands_that_do_not_fit(call: Call, text: str, grad: bool) -> None:
    def recorded(*shape: int, **options: Any) -> Tensor:
        return torch.randn(*shape, requires_grad=grad, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "r", recorded)
        with pytest.raises(ValueError, match=text) as caught:
            call(functional)
    assert type(caught.value) is ValueError


# ---- names -------------------------------------------------------------------------------------------------------

WITH_ALGO: dict[str, tuple[str, Callable[[str], Any]]] = {
    "conv2d": ("conv2d", lambda algo: functional.conv2d(x(), w(), algo=algo)),
    "conv2d_bn_act": (
        "conv2d",
        lambda algo: functional.conv2d_bn_act(x(), w(), None, r(4), torch.rand(4), None, None, algo=algo),
    ),
    "upsample_conv2d": ("upsample_conv2d", lambda algo: functional.upsample_conv2d(x(), w(), algo=algo)),
    "conv_transpose2d": ("conv_transpose2d", lambda algo: functional.conv_transpose2d(x(), w(3, 4, 3, 3), algo=algo)),
    "gemm": ("gemm", lambda algo: functional.gemm(r(2, 3), r(3, 4), algo=algo)),
    "linear": ("gemm", lambda algo: functional.linear(r(2, 3), r(4, 3), algo=algo)),
}


@pytest.mark.parametrize(("op", "call"), WITH_ALGO.values(), ids=WITH_ALGO)
def test_unknown_algorithms_list_the_known(op: str, call: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="'quantum'") as caught:
        call("quantum")
    for algorithm in fastconv.algorithms(op):
        assert algorithm.name in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda act: functional.conv2d(x(), w(), act=act),
        lambda act: functional.upsample_conv2d(x(), w(), act=act),
        lambda act: functional.gemm(r(2, 3), r(3, 4), act=act),
        lambda act: functional.linear(r(2, 3), r(4, 3), act=act),
        lambda act: functional.conv2d_bn_act(x(), w(), None, r(4), torch.rand(4), None, None, act=act),
        lambda act: ops.native.activation(x(), act, 0.0, None, ""),
    ],
    ids=["conv2d", "upsample_conv2d", "gemm", "linear", "conv2d_bn_act", "activation"],
)
@pytest.mark.parametrize("act", ["mish", "", "ReLU"])
def test_unknown_activations_list_the_known(call: Callable[[str], Any], act: str) -> None:
    with pytest.raises(ValueError, match=repr(act)) as caught:
        call(act)
    for name in functional.ACTIVATIONS:
        assert name in str(caught.value)


def test_unknown_backends_list_the_known() -> None:
    with pytest.raises(ValueError, match="'tpu'") as caught, fastconv.backend("tpu"):
        pass
    for name in fastconv.backends.BACKENDS:
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="cpu, cuda_emulated, cuda"):
        ops.native.activation(x(), "relu", 0.0, None, "tpu")


@pytest.mark.parametrize("name", [b for b in fastconv.backends.BACKENDS if fastconv.backends.why_unavailable(b)])
def test_backends_that_cannot_run_here_say_why(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name), fastconv.backend(name):
        pass


def test_a_forced_algorithm_gives_its_reasons() -> None:
    with pytest.raises(NotImplementedError, match="depthwise") as caught:
        functional.conv2d(x(), w(), algo="depthwise")
    assert "group" in str(caught.value)


def test_a_derivative_without_a_kernel_gives_its_reasons() -> None:
    """Backward calls the operators directly: the translation of refusals must reach there too."""
    if fastconv.backends.why_unavailable("cuda_emulated"):
        pytest.skip("no emulated kernels in this build")
    if fastconv.algorithms("conv2d_input_grad", "cuda_emulated"):
        pytest.skip("the emulated backend has this derivative")
    a = x().requires_grad_()
    with fastconv.backend("cuda_emulated"):
        y = functional.conv2d(a, w())
    with pytest.raises(NotImplementedError, match=r"^conv2d_input_grad: backend cuda_emulated has no"):
        y.sum().backward()


@pytest.mark.parametrize("op", ["conv3d", "", "conv2d "])
def test_unknown_operators_list_the_known(op: str) -> None:
    with pytest.raises(ValueError, match=r"conv2d.*gemm"):
        fastconv.algorithms(op)
