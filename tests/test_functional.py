"""fastconv.functional against torch beyond OpInfo: layouts, padding, fusion, in-place forms, autocast, scratch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

import fastconv
from fastconv import functional, introspection

ACTS = tuple(act for act in functional.ACTIVATIONS if act not in ("identity", "prelu"))
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float16: {"rtol": 5e-3, "atol": 2e-2},
    torch.bfloat16: {"rtol": 3e-2, "atol": 1e-1},
}
DTYPES = tuple(TOLERANCE)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), **TOLERANCE[ours.dtype])


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def torch_activation(y: Tensor, act: str, param: Any = None) -> Tensor:
    if act == "prelu":
        alpha = param.view(-1, 1, 1) if param.dim() == 1 else param
        return torch.where(y > 0, y, alpha * y)
    return y if act == "identity" else getattr(torch_f, act)(y, *(() if param is None else (param,)))


# ---- layouts -----------------------------------------------------------------------------------------------------

IMAGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "conv2d": lambda f, x: f.conv2d(x, torch.ones(8, 4, 3, 3), padding=1),
    "conv2d_1x1": lambda f, x: f.conv2d(x, torch.ones(8, 4, 1, 1)),
    "conv2d_depthwise": lambda f, x: f.conv2d(x, torch.ones(4, 1, 3, 3), padding=1, groups=4),
    "conv_transpose2d": lambda f, x: f.conv_transpose2d(x, torch.ones(4, 8, 3, 3), stride=2),
    "max_pool2d": lambda f, x: f.max_pool2d(x, 3, 2, 1),
    "max_pool2d_indices": lambda f, x: f.max_pool2d(x, (2, 1), return_indices=True),
    "avg_pool2d": lambda f, x: f.avg_pool2d(x, 2, padding=1),
    "adaptive_avg_pool2d": lambda f, x: f.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_avg_pool2d_1": lambda f, x: f.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda f, x: f.adaptive_max_pool2d(x, (3, 2)),
    "relu": lambda f, x: f.relu(x),
    "silu": lambda f, x: f.silu(x),
    "prelu": lambda f, x: f.prelu(x, torch.full((1,), 0.2)),
    "softmax": lambda f, x: f.softmax(x, 1),
}
LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "nchw": lambda: torch.randn(2, 4, 6, 5),
    "channels_last": lambda: last(torch.randn(2, 4, 6, 5)),
    "one_image": lambda: last(torch.randn(1, 4, 6, 5)),
    "one_pixel": lambda: last(torch.randn(2, 4, 6, 1))[:, :, :, :1],
    "sliced": lambda: torch.randn(4, 4, 6, 10)[::2, :, :, ::2],
    "sliced_channels_last": lambda: last(torch.randn(2, 8, 6, 5))[:, :4],
    "permuted": lambda: torch.randn(5, 6, 4, 2).permute(3, 2, 1, 0),
    "expanded": lambda: torch.randn(1, 4, 6, 5).expand(2, 4, 6, 5),
    "unbatched": lambda: torch.randn(4, 6, 5),
    "unbatched_permuted": lambda: torch.randn(6, 5, 4).permute(2, 0, 1),
    "no_images": lambda: torch.randn(0, 4, 6, 5),
}


def layout(y: Tensor) -> list[int]:
    """The strides of axes with more than one entry: the others say nothing."""
    return [stride for size, stride in zip(y.shape, y.stride(), strict=True) if size > 1] if y.numel() else []


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("image", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("call", IMAGES.values(), ids=IMAGES)
def test_results_lie_in_memory_as_torchs(call: Any, image: Any, grad: bool) -> None:
    x = image()
    ours, theirs = (call(f, x.detach().requires_grad_(grad)) for f in (functional, torch_f))
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for y, other in pairs:
        assert y.shape == other.shape and y.dtype == other.dtype
        torch.testing.assert_close(y, other, rtol=1e-4, atol=1e-4)
        assert layout(y) == layout(other)


@pytest.mark.parametrize("weight_last", [False, True], ids=["kcrs", "krsc"])
@pytest.mark.parametrize("x_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv2d_is_channels_last_if_either_operand_is(dtype: torch.dtype, x_last: bool, weight_last: bool) -> None:
    x, w = torch.randn(2, 4, 6, 5, dtype=dtype), torch.randn(8, 4, 3, 3, dtype=dtype)
    x, w = (last(x) if x_last else x), (last(w) if weight_last else w)
    y, other = functional.conv2d(x, w), torch_f.conv2d(x, w)
    close(y, torch_f.conv2d(x.double(), w.double()))
    assert y.stride() == other.stride()


# ---- convolution's arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (4, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)], ids=str)
def test_same_and_valid(kernel: tuple[int, int], dilation: Any) -> None:
    x, w = torch.randn(2, 3, 13, 11), torch.randn(4, 3, *kernel)
    for name in ("same", "valid"):
        # torch warns that an uneven 'same' copies the input; here it does not.
        close(functional.conv2d(x, w, None, 1, name, dilation), torch_f.conv2d(x, w, None, 1, name, dilation))


@pytest.mark.parametrize("sides", [(0, 1, 0, 1), (2, 0, 0, 3), (1, 1, 2, 2), (4, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 4}], ids=str)
def test_padding_of_four_values(sides: tuple[int, ...], options: dict[str, Any]) -> None:
    top, bottom, left, right = sides
    x, w = torch.randn(2, 4, 7, 8), torch.randn(8, 4 // options.get("groups", 1), 3, 3)
    expected = torch_f.conv2d(torch_f.pad(x, (left, right, top, bottom)), w, **options)
    close(functional.conv2d(x, w, padding=sides, **options), expected)
    close(functional.conv2d(x[0], w, padding=list(sides), **options), expected[0])


@pytest.mark.parametrize("value", [2, (2,), (2, 2), [2, 2], torch.Size([2, 2]), torch.tensor(2).numpy()[()]], ids=str)
def test_every_way_to_write_a_pair(value: Any) -> None:
    x, w = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3)
    expected = torch_f.conv2d(x, w, None, 2, 2, 2)
    assert torch.equal(functional.conv2d(x, w, None, value, value, value), functional.conv2d(x, w, None, 2, 2, 2))
    close(functional.conv2d(x, w, stride=value, padding=value, dilation=value), expected)
    close(functional.max_pool2d(x, value, value), torch_f.max_pool2d(x, 2, 2))
    close(functional.im2col(x, value, value), torch_f.unfold(x, 2, stride=2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("images", [(0, 3, 7, 6), (3, 7, 6), (2, 0, 7, 6), (2, 3, 7, 6)], ids=str)
def test_batches_of_any_size_and_dtype(images: tuple[int, ...], dtype: torch.dtype) -> None:
    x, w, b = torch.randn(images, dtype=dtype), torch.randn(5, images[-3], 3, 3, dtype=dtype), torch.randn(5).to(dtype)
    expected = torch_f.conv2d(x.double(), w.double(), b.double(), padding=1)
    y = functional.conv2d(x, w, b, padding=1)
    assert y.dtype == dtype
    close(y, expected)


def test_convtranspose_of_every_output_size_of_a_stride() -> None:
    x, w = torch.randn(1, 3, 4, 4), torch.randn(3, 5, 3, 3)
    for stride, extra in itertools.chain.from_iterable(((s, e) for e in range(s)) for s in (1, 2, 3)):
        args = (None, stride, 1, extra)
        close(functional.conv_transpose2d(x, w, *args), torch_f.conv_transpose2d(x, w, *args))


# ---- fusion ------------------------------------------------------------------------------------------------------

ALPHAS = {"one": (1,), "channel": (8,), "full": (8, 6, 5)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", functional.ACTIVATIONS)
def test_fused_conv2d_is_the_composition(act: str, dtype: torch.dtype) -> None:
    x, w, r = torch.randn(2, 4, 6, 5), torch.randn(8, 4, 3, 3) / 6, torch.randn(2, 8, 6, 5)
    bias, scale, shift, alpha = torch.randn(8), torch.randn(8), torch.randn(8), torch.randn(8)
    x, w, r, bias, scale, shift, alpha = (t.to(dtype) for t in (x, w, r, bias, scale, shift, alpha))
    param = alpha if act == "prelu" else None
    wide = [t.double() for t in (x, w, bias, scale, shift, r, alpha)]
    plain = torch_f.conv2d(*wide[:3], padding=1) * wide[3].view(-1, 1, 1) + wide[4].view(-1, 1, 1) + wide[5]
    expected = torch_activation(plain, act, wide[6] if act == "prelu" else None)
    parts: dict[str, Any] = {"scale": scale, "shift": shift, "residual": r, "act": act, "act_param": param}
    for image in (x, last(x)):
        close(functional.conv2d(image, w, bias, padding=1, **parts), expected)


@pytest.mark.parametrize("shape", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_alpha_of_every_shape(shape: tuple[int, ...], channels_last: bool) -> None:
    x, w, alpha = torch.randn(2, 4, 6, 5), torch.randn(8, 4, 3, 3), torch.randn(shape)
    x = last(x) if channels_last else x
    expected = torch_activation(torch_f.conv2d(x, w, padding=1), "prelu", alpha)
    y = functional.conv2d(x, w, padding=1, act="prelu", act_param=alpha)
    close(y, expected)
    close(functional.conv2d(x[0], w, padding=1, act="prelu", act_param=alpha), expected[0])
    half = functional.conv2d(x.bfloat16(), w.bfloat16(), padding=1, act="prelu", act_param=alpha.bfloat16())
    close(half, expected)


@pytest.mark.parametrize(("act", "param"), [("leaky_relu", None), ("leaky_relu", 0.3), ("elu", None), ("elu", 0.7)])
def test_parameters_of_activations(act: str, param: float | None) -> None:
    x, w = torch.randn(2, 4, 6, 5), torch.randn(8, 4, 3, 3)
    expected = torch_activation(torch_f.conv2d(x, w), act, param)
    close(functional.conv2d(x, w, act=act, act_param=param), expected)
    a, b = torch.randn(5, 7), torch.randn(7, 9)
    close(functional.gemm(a, b, act=act, act_param=param), torch_activation(a @ b, act, param))


@pytest.mark.parametrize("kind", ["channels_last", "sliced", "expanded", "unbatched", "itself"])
def test_residuals_of_any_strides(kind: str) -> None:
    x, w = torch.randn(2, 4, 6, 5), torch.randn(4, 4, 3, 3)
    residual = {
        "channels_last": lambda: last(torch.randn(2, 4, 6, 5)),
        "sliced": lambda: torch.randn(2, 8, 6, 10)[:, ::2, :, ::2],
        "expanded": lambda: torch.randn(4, 1, 1).expand(2, 4, 6, 5),
        "unbatched": lambda: torch.randn(4, 6, 5),
        "itself": lambda: x,
    }[kind]()
    image = x[0] if kind == "unbatched" else x
    expected = torch_f.relu(torch_f.conv2d(image, w, padding=1) + residual)
    before = residual.clone()
    close(functional.conv2d(image, w, padding=1, residual=residual, act="relu"), expected)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", ["identity", "relu", "relu6", "prelu", "silu"])
def test_conv2d_bn_act_is_the_composition(act: str, bias: bool, affine: bool) -> None:
    x, w, b = torch.randn(2, 4, 6, 5), torch.randn(8, 4, 3, 3), torch.randn(8) if bias else None
    mean, var = torch.randn(8), torch.rand(8) + 0.1
    gamma, beta = (torch.randn(8), torch.randn(8)) if affine else (None, None)
    param, residual = (torch.randn(8) if act == "prelu" else None), torch.randn(2, 8, 6, 5)
    y = torch_f.batch_norm(torch_f.conv2d(x, w, b, padding=1), mean, var, gamma, beta, eps=1e-3)
    options: dict[str, Any] = {"eps": 1e-3, "padding": 1, "act": act, "act_param": param}
    close(functional.conv2d_bn_act(x, w, b, mean, var, gamma, beta, **options), torch_activation(y, act, param))
    fused = functional.conv2d_bn_act(x, w, b, mean, var, gamma, beta, residual=residual, **options)
    close(fused, torch_activation(y + residual, act, param))


@pytest.mark.parametrize("algo", [None, *introspection.algorithm_names("upsample_conv2d")])
@pytest.mark.parametrize("factor", [1, 2, 3, (2, 1), (1, 4)], ids=str)
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {}, {"padding": 2, "dilation": 2}, {"stride": 2, "padding": 1}, {"groups": 2}], ids=str
)
def test_upsample_conv2d_is_the_pair(options: dict[str, Any], factor: Any, algo: str | None) -> None:
    x, w, b = torch.randn(2, 4, 5, 6), torch.randn(8, 4 // options.get("groups", 1), 3, 3), torch.randn(8)
    large = torch_f.interpolate(x, scale_factor=factor, mode="nearest")
    expected = torch_f.silu(torch_f.conv2d(large, w, b, **options))
    for image in (x, last(x)):
        try:
            y = functional.upsample_conv2d(image, w, b, factor, **options, act="silu", algo=algo)
        except NotImplementedError as refusal:
            assert algo is not None and algo in str(refusal)
            continue
        close(y, expected)


@pytest.mark.parametrize("op", ["conv2d", "upsample_conv2d", "conv_transpose2d", "gemm"])
def test_every_algorithm_by_name(op: str) -> None:
    """Each serves at least one of these, and gives what the package's own choice gives."""
    served = set()
    names = introspection.algorithm_names(op)
    for groups, kernel, name in itertools.product((1, 16), (1, 3), names):
        x, w = torch.randn(1, 16, 8, 8), torch.randn(16, 16 // groups, kernel, kernel)
        args: dict[str, Any] = {"groups": groups}
        if op == "gemm":
            x, w, args = torch.randn(9, 16), torch.randn(16, 20), {}
        call = getattr(functional, op)
        try:
            y = call(x, w, **args, algo=name)
        except NotImplementedError as refusal:
            assert name in str(refusal)
            continue
        served.add(name)
        torch.testing.assert_close(y, call(x, w, **args), rtol=1e-4, atol=1e-4)
    assert served == set(names)


# ---- linear and gemm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7), (2, 0, 7), (1, 1, 1, 7)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_of_any_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    x, w, b = torch.randn(shape), torch.randn(5, 7), torch.randn(5) if bias else None
    residual = torch.randn(*shape[:-1], 5)
    close(functional.linear(x, w, b), torch_f.linear(x, w, b))
    close(functional.linear(x, w, b, residual=residual, act="relu"), torch_f.relu(torch_f.linear(x, w, b) + residual))


def test_linear_without_features() -> None:
    b = torch.randn(4)
    close(functional.linear(torch.randn(3, 0), torch.randn(4, 0), b), b.expand(3, 4))
    close(functional.linear(torch.randn(3, 0), torch.randn(4, 0)), torch.zeros(3, 4))
    assert functional.linear(torch.randn(3, 5), torch.randn(0, 5)).shape == (3, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (0,)], ids=str)
def test_gemm_of_any_strides(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    for m, k, n in ((1, 1, 1), (5, 7, 9), (17, 33, 20), (4, 0, 3), (0, 4, 3)):
        a, b = torch.randn(*batch, m, k), torch.randn(*batch, k, n)
        expected = a.to(dtype).double() @ b.to(dtype).double()
        forms = (
            (a, b, {}),
            (a.mT.contiguous(), b, {"transpose_a": True}),
            (a, b.mT.contiguous(), {"transpose_b": True}),
            (a.mT.contiguous().mT, b.mT.contiguous().mT, {}),
            (a.repeat_interleave(2, -1)[..., ::2], b.repeat_interleave(2, -2)[..., ::2, :], {}),
        )
        for left, right, turned in forms:
            close(functional.gemm(left.to(dtype), right.to(dtype), **turned), expected)


# ---- activations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ("sigmoid", "tanh", *ACTS))
def test_activations_of_special_values(act: str, dtype: torch.dtype) -> None:
    inf = float("inf")
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0, 6.0, 100.0, -100.0, 6e4, -6e4, inf, -inf, float("nan")])
    x = torch.cat([x, torch.linspace(-12, 12, 1001)]).to(dtype)
    theirs = getattr(torch, act)(x.double()) if act in ("sigmoid", "tanh") else getattr(torch_f, act)(x.double())
    torch.testing.assert_close(getattr(functional, act)(x), theirs.to(dtype), equal_nan=True, **TOLERANCE[dtype])


IN_PLACE = ("relu", "relu6", "leaky_relu", "silu", "hardswish", "hardsigmoid", "elu")


@pytest.mark.parametrize("act", IN_PLACE)
def test_in_place_activations(act: str) -> None:
    ours, theirs = getattr(functional, act), getattr(torch_f, act)
    for x in (torch.randn(2, 3, 4, 5), last(torch.randn(2, 3, 4, 5)), torch.randn(8, 9)[::2, ::3], torch.randn(0, 3)):
        expected, version, place = theirs(x.clone()), x._version, x.data_ptr()
        y = ours(x, inplace=True)
        assert y is x and x.data_ptr() == place and x._version > version
        close(x, expected)
    surroundings = torch.randn(6, 6)
    before = surroundings.clone()
    ours(surroundings[1:5, 1:5], inplace=True)
    before[1:5, 1:5] = theirs(before[1:5, 1:5].clone())
    close(surroundings, before)


@pytest.mark.parametrize("act", IN_PLACE)
def test_in_place_activations_differentiate(act: str) -> None:
    grads = []
    for f in (functional, torch_f):
        x = torch.linspace(-4, 7, 23, requires_grad=True)
        y = getattr(f, act)(x * 1.01, inplace=True)
        grads.append(torch.autograd.grad(y.square().sum(), x)[0])
    close(*grads)


def test_in_place_activations_of_saved_tensors_are_noticed() -> None:
    x = torch.randn(5, requires_grad=True)
    y = torch.exp(x)
    with torch.no_grad():
        functional.relu(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dims", range(6))
def test_activations_of_any_dimensions(dims: int) -> None:
    x = torch.randn([3, 4, 2, 5, 2][:dims])
    close(functional.silu(x), torch_f.silu(x))
    close(functional.prelu(x, torch.tensor([0.3])), torch_f.prelu(x, torch.tensor([0.3])))
    if dims >= 2:
        alpha = torch.randn(4)
        close(functional.prelu(x, alpha), torch_f.prelu(x, alpha))
        close(functional.prelu(x.transpose(0, -1).contiguous().transpose(0, -1), alpha), torch_f.prelu(x, alpha))
    for dim in range(-max(dims, 1), max(dims, 1)):
        close(functional.softmax(x, dim), torch_f.softmax(x, dim))


def test_softmax_of_special_values() -> None:
    inf = float("inf")
    x = torch.tensor([[1e4, -1e4, 0.0], [inf, 0.0, 1.0], [-inf, 0.0, 1.0], [-inf] * 3, [float("nan"), 0.0, 1.0]])
    torch.testing.assert_close(functional.softmax(x, 1), torch.softmax(x, 1), equal_nan=True)
    assert functional.softmax(torch.arange(3), 0, dtype=torch.float64).dtype == torch.float64


# ---- pooling -----------------------------------------------------------------------------------------------------


def test_pooling_of_nan_and_infinities() -> None:
    x = torch.randn(2, 3, 9, 9)
    x[0, 0, 4, 4] = float("nan")
    x[1] = -float("inf")
    for image in (x, last(x)):
        ours = functional.max_pool2d(image, 3, 2, 1, return_indices=True)
        theirs = torch_f.max_pool2d(image, 3, 2, 1, return_indices=True)
        for y, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(y, other, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(functional.avg_pool2d(image, 3), torch_f.avg_pool2d(image, 3), equal_nan=True)


def test_pooling_with_an_empty_stride() -> None:
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(functional.max_pool2d(x, 3, []), torch_f.max_pool2d(x, 3, []))
    close(functional.avg_pool2d(x, 3, []), torch_f.avg_pool2d(x, 3, []))


@pytest.mark.parametrize("size", [0, (0, 3), None, (None, 1), 9], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (3, 5, 6), (0, 3, 5, 6)], ids=str)
def test_adaptive_pooling_to_any_size(shape: tuple[int, ...], size: Any) -> None:
    x = torch.randn(shape)
    # torch takes None for both sizes too, but only as a pair.
    pair = (None, None) if size is None else size
    close(functional.adaptive_avg_pool2d(x, pair), torch_f.adaptive_avg_pool2d(x, pair))
    close(functional.adaptive_max_pool2d(x, pair), torch_f.adaptive_max_pool2d(x, pair))


# ---- modes -------------------------------------------------------------------------------------------------------

AUTOCAST: dict[str, Callable[[Any], Tensor]] = {
    "conv2d": lambda f: f.conv2d(torch.ones(1, 3, 5, 5), torch.ones(4, 3, 3, 3), torch.ones(4)),
    "conv_transpose2d": lambda f: f.conv_transpose2d(torch.ones(1, 3, 5, 5), torch.ones(3, 4, 3, 3)),
    "linear": lambda f: f.linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)),
    "prelu": lambda f: f.prelu(torch.ones(1, 3, 5, 5), torch.ones(3)),
    "max_pool2d": lambda f: f.max_pool2d(torch.ones(1, 3, 5, 5), 2),
    "avg_pool2d": lambda f: f.avg_pool2d(torch.ones(1, 3, 5, 5), 2),
    "relu6": lambda f: f.relu6(torch.ones(1, 3, 5, 5)),
    "softmax": lambda f: f.softmax(torch.ones(1, 3), 1),
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("call", AUTOCAST.values(), ids=AUTOCAST)
def test_autocast_lowers_what_torchs_lowers(call: Any, grad: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        ours, theirs = call(functional), call(torch_f)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


def test_autocast_differentiates_to_the_weights_dtype() -> None:
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.conv2d(x, w)
    y.float().sum().backward()
    assert w.grad is not None and w.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap() -> None:
    x, w = torch.randn(3, 2, 4, 6, 5), torch.randn(8, 4, 3, 3)
    ours = torch.vmap(lambda x: functional.conv2d(x, w, padding=1, act="relu"))(x)
    close(ours, torch.relu(torch.stack([torch_f.conv2d(image, w, padding=1) for image in x])))


def test_the_reference_backend_serves_every_function() -> None:
    x, w = torch.randn(1, 4, 5, 5, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)

    def everything() -> Tensor:
        y = functional.conv2d(x, w, padding=1, act="silu")
        y = functional.max_pool2d(functional.upsample_conv2d(y, w, padding=1), 2)
        y = functional.avg_pool2d(functional.conv_transpose2d(y, w), 2)
        y = functional.adaptive_avg_pool2d(functional.prelu(y, torch.full((4,), 0.1)), 2)
        return functional.softmax(functional.linear(y.flatten(1), torch.ones(3, 16)), 1)

    with fastconv.backend("reference"):
        expected = everything()
        dx, dw = torch.autograd.grad(expected[0, 0], (x, w))
    y = everything()
    close(y, expected)
    for ours, theirs in zip(torch.autograd.grad(y[0, 0], (x, w)), (dx, dw), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    x, w = torch.randn(2, 16, 19, 17), torch.randn(24, 16, 3, 3)
    dy = torch.randn(2, 24, 17, 15)

    def everything() -> list[Tensor]:
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = functional.conv2d(*leaves)
        a = functional.gemm(x.view(-1, 17), x.view(-1, 17), transpose_b=True)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy), a, functional.avg_pool2d(x, 3), functional.silu(x)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = everything()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(everything(), single, strict=True))
    finally:
        torch.set_num_threads(before)


# ---- scratch memory ----------------------------------------------------------------------------------------------

MIB = 1 << 20
SCRATCH: dict[str, Callable[[], Any]] = {
    "3x3": lambda: functional.conv2d(torch.randn(2, 64, 56, 56), torch.randn(64, 64, 3, 3), padding=1),
    "3x3 channels_last": lambda: functional.conv2d(last(torch.randn(2, 64, 56, 56)), torch.randn(64, 64, 3, 3)),
    "stem": lambda: functional.conv2d(torch.randn(1, 3, 112, 112), torch.randn(64, 3, 7, 7), stride=2, padding=3),
    "pointwise": lambda: functional.conv2d(torch.randn(1, 256, 56, 56), torch.randn(64, 256, 1, 1)),
    "depthwise": lambda: functional.conv2d(torch.randn(1, 96, 112, 112), torch.randn(96, 1, 3, 3), groups=96),
    "grouped": lambda: functional.conv2d(torch.randn(1, 64, 56, 56), torch.randn(64, 8, 3, 3), groups=8, padding=1),
    "pooling": lambda: functional.max_pool2d(torch.randn(1, 64, 112, 112), 3, 2, 1),
    "upsample": lambda: functional.upsample_conv2d(torch.randn(1, 64, 28, 28), torch.randn(64, 64, 3, 3), padding=1),
    "transposed": lambda: functional.conv_transpose2d(torch.randn(1, 64, 28, 28), torch.randn(64, 64, 4, 4), stride=2),
    "gemm": lambda: functional.gemm(torch.randn(512, 512), torch.randn(512, 512)),
    "gemm transposed": lambda: functional.gemm(torch.randn(512, 512), torch.randn(512, 512), transpose_a=True),
    "linear": lambda: functional.linear(torch.randn(64, 1280), torch.randn(1000, 1280)),
    "softmax": lambda: functional.softmax(torch.randn(64, 10000), 1),
    "half": lambda: functional.conv2d(
        torch.randn(1, 64, 56, 56).bfloat16(), torch.randn(64, 64, 3, 3).bfloat16(), padding=1
    ),
}


@pytest.mark.parametrize("call", SCRATCH.values(), ids=SCRATCH)
def test_scratch_stays_under_one_mebibyte_a_thread(call: Callable[[], Any]) -> None:
    introspection.reset_peak_workspace()
    with torch.no_grad():
        call()
    assert introspection.peak_workspace_bytes() <= torch.get_num_threads() * MIB


@pytest.mark.parametrize("form", ["nchw", "channels_last"])
def test_scratch_of_gradients(form: str) -> None:
    """Weights are packed into scratch there: one copy of them is allowed on top."""
    w = torch.randn(64, 64, 3, 3, requires_grad=True)
    x = torch.randn(2, 64, 56, 56)
    x = (last(x) if form == "channels_last" else x).requires_grad_()
    y = functional.conv2d(x, w, padding=1)
    introspection.reset_peak_workspace()
    y.sum().backward()
    assert introspection.peak_workspace_bytes() <= torch.get_num_threads() * MIB + 2 * w.numel() * w.element_size()
