"""Fused calls are the composition of their parts: epilogues, folded BatchNorm, upsampling, every algorithm."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from closeness import DTYPES, close, last
from torch import Tensor

from fastconv import functional, introspection
from fastconv.verify.runner import BF16_ISAS


def torch_activation(y: Tensor, act: str, param: Any = None) -> Tensor:
    if act == "prelu":
        alpha = param.view(-1, 1, 1) if param.dim() == 1 else param
        return torch.where(y > 0, y, alpha * y)
    return y if act == "identity" else getattr(torch_f, act)(y, *(() if param is None else (param,)))


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
    """Each for float32 serves at least one of these, and gives what the package's own choice gives."""
    served = set()
    names = [name for name in introspection.algorithm_names(op) if name not in BF16_ISAS]
    for groups, kernel, name in itertools.product((1, 4, 16), (1, 3), names):
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
