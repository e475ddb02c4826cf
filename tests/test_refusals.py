"""Bad input that only we can refuse: dtypes, devices, fused operands, names of algorithms, activations, backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import functional, ops

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


OTHERS = [b for b in ("cuda_emulated", "triton_interpreted", "reference") if not fastconv.backends.why_unavailable(b)]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("call", [*MIXED.values(), *(call for call, _ in FITS.values())], ids=[*MIXED, *FITS])
def test_every_backend_refuses_in_the_same_words(call: Call, backend: str) -> None:
    with pytest.raises(Exception) as on_cpu:
        call(functional)
    with fastconv.backend(backend), pytest.raises(Exception) as there:
        call(functional)
    assert (type(there.value), str(there.value)) == (type(on_cpu.value), str(on_cpu.value))


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
        ("conv2d", "mb1ic64ih56oc64kh3ph1", "implicit_gemm"),
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
