"""Bad input to modules and to what works on whole networks: class and words, torch's where a layer is torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fastconv
from fastconv.nn import ConvBNAct2d, UpsampleConv2d


def r(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def refusal(call: Callable[..., Any], *arguments: Any) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.type, str(caught.value).splitlines()[0]


# Of constructors, then of calls; `n` is torch.nn or fastconv.nn.
LAYERS: dict[str, Callable[[Any], Any]] = {
    "Conv2d groups and inputs": lambda n: n.Conv2d(3, 4, 3, groups=2),
    "Conv2d groups and outputs": lambda n: n.Conv2d(4, 3, 3, groups=2),
    "Conv2d groups 0": lambda n: n.Conv2d(4, 4, 3, groups=0),
    "Conv2d padding name": lambda n: n.Conv2d(3, 4, 3, padding="full"),
    "Conv2d same with stride": lambda n: n.Conv2d(3, 4, 3, padding="same", stride=2),
    "Conv2d padding_mode": lambda n: n.Conv2d(3, 4, 3, padding_mode="mirror"),
    "Conv2d kernel name": lambda n: n.Conv2d(3, 4, "3"),
    "Conv2d -1 channels": lambda n: n.Conv2d(-1, 4, 3),
    "Conv2d option": lambda n: n.Conv2d(3, 4, 3, act="relu"),
    "Conv2d dtype": lambda n: n.Conv2d(3, 4, 3, dtype=torch.int32),
    "ConvTranspose2d padding_mode": lambda n: n.ConvTranspose2d(3, 4, 3, padding_mode="reflect"),
    "ConvTranspose2d groups": lambda n: n.ConvTranspose2d(3, 4, 3, groups=2),
    "Linear -1 features": lambda n: n.Linear(-1, 3),
    "PReLU -1 parameters": lambda n: n.PReLU(-1),
    "Conv2d channels": lambda n: n.Conv2d(3, 4, 3)(r(1, 4, 5, 5)),
    "Conv2d 2-D": lambda n: n.Conv2d(3, 4, 3)(r(5, 5)),
    "Conv2d small image": lambda n: n.Conv2d(3, 4, 3)(r(1, 3, 2, 5)),
    "Conv2d reflection": lambda n: n.Conv2d(3, 4, 3, padding=9, padding_mode="reflect")(r(1, 3, 5, 5)),
    "ConvTranspose2d channels": lambda n: n.ConvTranspose2d(3, 4, 3)(r(1, 4, 5, 5)),
    "ConvTranspose2d size": lambda n: n.ConvTranspose2d(3, 4, 3, 2)(r(1, 3, 4, 4), output_size=[20, 20]),
    "ConvTranspose2d size of 1": lambda n: n.ConvTranspose2d(3, 4, 3, 2)(r(1, 3, 4, 4), output_size=[20]),
    "Linear features": lambda n: n.Linear(3, 4)(r(2, 4)),
    "MaxPool2d padding": lambda n: n.MaxPool2d(2, padding=2)(r(1, 3, 5, 5)),
    "AvgPool2d kernel 0": lambda n: n.AvgPool2d(0)(r(1, 3, 5, 5)),
    "AvgPool2d divisor 0": lambda n: n.AvgPool2d(2, divisor_override=0)(r(1, 3, 5, 5)),
    "AdaptiveAvgPool2d size of 3": lambda n: n.AdaptiveAvgPool2d((1, 2, 3))(r(1, 3, 4, 4)),
    "AdaptiveMaxPool2d size -1": lambda n: n.AdaptiveMaxPool2d(-1)(r(1, 3, 4, 4)),
    "BatchNorm2d 2-D": lambda n: n.BatchNorm2d(3)(r(3, 4)),
    "BatchNorm2d channels": lambda n: n.BatchNorm2d(3)(r(2, 4, 3, 3)),
    "BatchNorm2d one value": lambda n: n.BatchNorm2d(3)(r(1, 3, 1, 1)),
    "PReLU channels": lambda n: n.PReLU(2)(r(1, 3, 5, 5)),
    "LeakyReLU slope": lambda n: n.LeakyReLU("steep")(r(3)),
    "ReLU of a leaf in place": lambda n: n.ReLU(inplace=True)(r(3).requires_grad_()),
}


@pytest.mark.parametrize("call", LAYERS.values(), ids=LAYERS)
def test_layers_refuse_as_torchs(call: Callable[[Any], Any]) -> None:
    expected = refusal(call, nn)
    assert refusal(call, fastconv.nn) == expected
    with FakeTensorMode():  # where torch's own operators have some texts of their own
        assert refusal(call, fastconv.nn) in (expected, refusal(call, nn))


conv = nn.Conv2d(3, 4, 3)
OURS: dict[str, tuple[Callable[[], Any], type, str]] = {
    "block act": (lambda: ConvBNAct2d(3, 4, 3, act="mish"), ValueError, "act to be one of identity, relu.* 'mish'"),
    "block groups": (lambda: ConvBNAct2d(3, 4, 3, groups=2), ValueError, "^in_channels must be divisible by groups"),
    "block channels": (lambda: ConvBNAct2d(3, 4, 3)(r(1, 4, 5, 5)), RuntimeError, "to have 3 channels, but got 4"),
    "block in evaluation, channels": (
        lambda: ConvBNAct2d(3, 4, 3).eval()(r(1, 4, 5, 5)),
        RuntimeError,
        "to have 3 channels, but got 4",
    ),
    "from_torch of a Linear": (lambda: ConvBNAct2d.from_torch(nn.Linear(3, 4)), TypeError, "conv to be .* Linear"),
    "from_torch of nothing": (lambda: ConvBNAct2d.from_torch(None), TypeError, "conv to be .*, but got None"),
    "from_torch of a LayerNorm": (
        lambda: ConvBNAct2d.from_torch(conv, nn.LayerNorm(4)),
        TypeError,
        "bn to be a BatchNorm2d or None.*LayerNorm",
    ),
    "from_torch of another width": (
        lambda: ConvBNAct2d.from_torch(conv, nn.BatchNorm2d(5)),
        ValueError,
        "bn to have conv's 4 channels, but got 5",
    ),
    "scale_factor 0": (lambda: UpsampleConv2d(3, 4, 3, scale_factor=0), ValueError, "scale_factor .* 0"),
    "scale_factor 1.5": (lambda: UpsampleConv2d(3, 4, 3, scale_factor=1.5), ValueError, "scale_factor .* 1.5"),
    "scale_factor nan": (lambda: UpsampleConv2d(3, 4, 3, scale_factor=float("nan")), ValueError, "scale_factor .* nan"),
    "scale_factor inf": (lambda: UpsampleConv2d(3, 4, 3, scale_factor=float("inf")), ValueError, "scale_factor .* inf"),
    "scale_factor name": (lambda: UpsampleConv2d(3, 4, 3, scale_factor="2"), ValueError, "scale_factor .* '2'"),
    "no scale_factor": (lambda: UpsampleConv2d(3, 4, 3, scale_factor=None), ValueError, "scale_factor .* None"),
    "scale_factor of 3": (
        lambda: UpsampleConv2d(3, 4, 3, scale_factor=(1, 2, 2)),
        ValueError,
        "scale_factor .*1, 2, 2",
    ),
    "bilinear": (
        lambda: UpsampleConv2d.from_torch(nn.Upsample(scale_factor=2, mode="bilinear"), conv),
        TypeError,
        "nearest",
    ),
    "upsampling to a size": (lambda: UpsampleConv2d.from_torch(nn.Upsample(size=5), conv), TypeError, "scale_factor"),
    "replace a function": (
        lambda: fastconv.replace(torch.relu),
        TypeError,
        "^replace: expected model to be a torch.nn.Module",
    ),
    "convert nothing": (lambda: fastconv.convert(None), TypeError, "^convert: expected model to be a torch.nn.Module"),
    "convert to integers": (
        lambda: fastconv.convert(conv, dtype=torch.int8),
        ValueError,
        "floating-point .*torch.int8",
    ),
    "convert to a name": (lambda: fastconv.convert(conv, dtype="half"), ValueError, "floating-point .*'half'"),
    "convert a number": (lambda: fastconv.convert(conv, 3), TypeError, "^convert: expected example_inputs .* 3$"),
    "converted, channels": (
        lambda: fastconv.convert(conv.eval(), r(1, 3, 5, 5))(r(1, 4, 5, 5)),
        RuntimeError,
        "to have 3 channels, but got 4",
    ),
    "profile nothing": (lambda: fastconv.profile(None, r(3)), TypeError, "^profile: expected model to be"),
    "profile a number": (lambda: fastconv.profile(conv, 3), TypeError, "^profile: expected example_inputs .* 3$"),
    "profile no rounds": (lambda: fastconv.profile(conv, r(1, 3, 5, 5), rounds=0), ValueError, "rounds .* 0$"),
    "explain nothing": (lambda: fastconv.explain(None), TypeError, "expected a module or the name .*NoneType"),
    "explain an unknown problem": (lambda: fastconv.explain("conv2d", "nonsense"), ValueError, "mb, ic.*'nonsense'"),
    "explain -1 images": (lambda: fastconv.explain("conv2d", N=-1), ValueError, "at least 0, but got -1"),
    "explain a fraction": (lambda: fastconv.explain("conv2d", N=1.5), TypeError, "N to be an integer, but got 1.5"),
    "explain a dtype number": (lambda: fastconv.explain("conv2d", dtype=3), TypeError, "dtype to be a name, but got 3"),
    "explain an unknown dtype": (lambda: fastconv.explain("conv2d", dtype="int8"), ValueError, "float32.*'int8'"),
    "explain an unknown act": (lambda: fastconv.explain("conv2d", act="mish"), ValueError, "relu6.*'mish'"),
    "explain a backend": (lambda: fastconv.explain("conv2d", backend="tpu"), ValueError, "backend .*'tpu'"),
    "explain groups": (lambda: fastconv.explain("conv2d", C=3, K=4, groups=2), ValueError, "groups to divide"),
    "algorithms of a number": (lambda: fastconv.algorithms(3), ValueError, "op to be one of .*conv2d.* 3$"),
    "algorithms on no backend": (lambda: fastconv.algorithms("conv2d", None), ValueError, "cpu, cuda.* None$"),
    "no backend": (lambda: fastconv.backend(None), ValueError, "cpu, cuda.* None$"),
    "backends": (lambda: fastconv.backend(["cpu"]), ValueError, r"cpu, cuda.* \['cpu'\]$"),
}


@pytest.mark.parametrize(("call", "kind", "text"), OURS.values(), ids=OURS)
def test_what_torch_does_not_know(call: Callable[[], Any], kind: type, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        call()
    assert caught.type is kind
