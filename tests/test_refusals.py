"""What only we can refuse: dtypes of every function, names of algorithms, activations, backends, problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import _C, functional, ops
from fastconv.ops import recording

r = torch.randn
Call = Callable[[Any], Any]


def x() -> Tensor:
    return r(1, 3, 5, 5)


def w(*shape: int) -> Tensor:
    return r(*(shape or (4, 3, 3, 3)))


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

    def refusing(operators: Any, ctx: Any, dy: Tensor) -> Any:
        raise RuntimeError(f"somewhere in C++: {_C.NOT_SERVED_MARK}conv2d_input_grad: backend cpu has no kernel for it")

    def broken(operators: Any, ctx: Any, dy: Tensor) -> Any:
        raise RuntimeError("something else")

    with pytest.raises(NotImplementedError, match=r"^conv2d_input_grad: backend cpu has no kernel for it$"):
        recording.bound(refusing, ops.native)(None, x())
    with pytest.raises(RuntimeError, match=r"^something else$") as caught:
        recording.bound(broken, ops.native)(None, x())
    assert caught.type is RuntimeError


def test_conv2d_dtypes_must_agree() -> None:
    """torch has two texts for this, by platform: its layer's documentation shows this one."""
    with pytest.raises(RuntimeError, match=r"^Input type \(float\) and weight type \(double\) should be the same$"):
        functional.conv2d(x(), w().double())


@pytest.mark.parametrize("op", ["conv3d", "", "conv2d "])
def test_unknown_operators_list_the_known(op: str) -> None:
    with pytest.raises(ValueError, match=r"conv2d.*gemm"):
        fastconv.algorithms(op)


def test_the_known_operators_are_functions() -> None:
    with pytest.raises(ValueError) as caught:
        fastconv.algorithms("conv3d")
    listed = str(caught.value).split("one of ")[1].split(", but")[0].split(", ")
    assert {"conv2d", "gemm", "relu"} <= set(listed)
    for op in listed:
        fastconv.algorithms(op)


def test_explain_takes_the_terms_it_lists() -> None:
    with pytest.raises(ValueError, match=r"^explain: expected the problem in terms of N, C, .*, but got 'c'$"):
        fastconv.explain("conv2d", c=64)
    with pytest.raises(ValueError, match=r"^explain: expected the problem in terms of M, N, K, .*, but got 'groups'$"):
        fastconv.explain("gemm", groups=2)
    by_name, by_dtype = (fastconv.explain("conv2d", C=64, dtype=dtype) for dtype in ("float16", torch.float16))
    assert str(by_name) == str(by_dtype)


@pytest.mark.parametrize(
    ("op", "text", "chosen"),
    [
        ("conv2d", "mb1ic64ih56oc64kh3sh2ph1", "implicit_gemm"),
        ("conv2d", "g32mb1ic32ih8oc32kh3ph1", "depthwise"),
        ("conv2d", "mb1ic64ih8oc32kh1", "pointwise"),
        ("upsample_conv2d", "mb1ic16ih8oc16kh3ph1", "phase"),
        ("conv_transpose2d", "mb1ic16ih8oc24kh4sh2ph1", "phases"),
        ("gemm", "m8k16n4", "tiled"),
    ],
)
def test_explain_reads_the_problem_strings_of_bench(op: str, text: str, chosen: str) -> None:
    explanation = fastconv.explain(op, text)
    assert explanation.chosen == chosen
    assert chosen in str(explanation)
