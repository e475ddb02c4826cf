"""torch.func's transforms and forward mode over every function: the results of torch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from fastconv import functional, ops

Function = Callable[..., Tensor]


def _normed(x: Tensor, w: Tensor, b: Tensor, m: Tensor) -> Tensor:
    """BatchNorm with the statistics m and m * m + 1, both of which have a derivative here and none in torch's own."""
    spread = (-1, 1, 1)
    return (x - m.view(spread)) * (m * m + 1.00001).rsqrt().view(spread) * w.view(spread) + b.view(spread)


# Name: ours, torch's, shapes of the operands. A size of 24 values at most keeps the Hessians small.
CASES: dict[str, tuple[Function, Function, tuple[tuple[int, ...], ...]]] = {
    "conv2d": (
        lambda x, w, b: functional.conv2d(x, w, b, (2, 1), 1),
        lambda x, w, b: torch_f.conv2d(x, w, b, (2, 1), 1),
        ((2, 2, 3, 2), (3, 2, 2, 2), (3,)),
    ),
    "depthwise": (
        lambda x, w: functional.conv2d(x, w, groups=3),
        lambda x, w: torch_f.conv2d(x, w, groups=3),
        ((3, 3, 2), (3, 1, 2, 2)),
    ),
    "fused conv2d": (
        lambda x, w, s, r: functional.conv2d(x, w, s, padding=1, scale=s, shift=s, residual=r, act="silu"),
        lambda x, w, s, r: torch_f.silu(
            torch_f.conv2d(x, w, s, padding=1) * s.view(-1, 1, 1) + s.view(-1, 1, 1) + r
        ),
        ((2, 2, 2, 3), (2, 2, 3, 3), (2,), (2, 2, 2, 3)),
    ),
    "conv2d_bn_act": (
        lambda x, w, m: functional.conv2d_bn_act(x, w, None, m, m * m + 1, m, m, act="silu"),
        lambda x, w, m: torch_f.silu(_normed(torch_f.conv2d(x, w), m, m, m)),
        ((2, 2, 3, 2), (2, 2, 2, 2), (2,)),
    ),
    "upsample_conv2d": (
        lambda x, w, b: functional.upsample_conv2d(x, w, b, 2, padding=1),
        lambda x, w, b: torch_f.conv2d(torch_f.interpolate(x, scale_factor=2), w, b, padding=1),
        ((2, 2, 2, 2), (2, 2, 3, 3), (2,)),
    ),
    "conv_transpose2d": (
        lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1, 1),
        lambda x, w, b: torch_f.conv_transpose2d(x, w, b, 2, 1, 1),
        ((2, 2, 2, 2), (2, 2, 3, 3), (2,)),
    ),
    "linear": (functional.linear, torch_f.linear, ((2, 3), (4, 3), (4,))),
    "linear of many axes": (functional.linear, torch_f.linear, ((2, 2, 3), (2, 3), (2,))),
    "gemm of batches": (
        lambda a, b: functional.gemm(a, b, transpose_a=True),
        lambda a, b: a.mT @ b,
        ((2, 3, 2), (2, 3, 2)),
    ),
    "max_pool2d": (
        lambda x: functional.max_pool2d(x, 3, 2, 1),
        lambda x: torch_f.max_pool2d(x, 3, 2, 1),
        ((2, 1, 4, 3),),
    ),
    "avg_pool2d": (
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
        lambda x: torch_f.avg_pool2d(x, 3, 2, 1),
        ((2, 1, 4, 3),),
    ),
    "adaptive_avg_pool2d": (
        lambda x: functional.adaptive_avg_pool2d(x, (2, 2)),
        lambda x: torch_f.adaptive_avg_pool2d(x, (2, 2)),
        ((2, 1, 4, 3),),
    ),
    "adaptive_max_pool2d": (
        lambda x: functional.adaptive_max_pool2d(x, (2, 2)),
        lambda x: torch_f.adaptive_max_pool2d(x, (2, 2)),
        ((2, 1, 4, 3),),
    ),
    "prelu": (functional.prelu, torch_f.prelu, ((2, 3, 2), (3,))),
    "prelu, one slope": (functional.prelu, torch_f.prelu, ((2, 3), (1,))),
    "prelu, full": (functional.prelu, lambda x, a: torch.where(x > 0, x, a * x), ((2, 3, 2), (3, 2))),
    "silu in place": (lambda x: functional.silu(x * 1, inplace=True), torch_f.silu, ((5,),)),
    "gelu": (functional.gelu, torch_f.gelu, ((2, 3),)),
    "softmax": (lambda x: functional.softmax(x, -1), lambda x: torch_f.softmax(x, -1), ((2, 3),)),
    "im2col": (lambda x: functional.im2col(x, 2), lambda x: torch_f.unfold(x, 2), ((2, 1, 3, 3),)),
    "col2im": (
        lambda x: functional.col2im(x, (3, 3), 2), lambda x: torch_f.fold(x, (3, 3), 2), ((2, 4, 4),)
    ),
    "batch norm in training": (
        lambda x, w, b: functional.batch_norm_act(x, None, None, w, b, True, act="silu"),
        lambda x, w, b: torch_f.silu(torch_f.batch_norm(x, None, None, w, b, True)),
        ((3, 2, 2, 2), (2,), (2,)),
    ),
    "batch norm in evaluation": (
        lambda x, w, b, m: functional.batch_norm_act(x, m, m * m + 1, w, b, residual=x, act="silu"),
        lambda x, w, b, m: torch_f.silu(_normed(x, w, b, m) + x),
        ((2, 2, 2, 2), (2,), (2,), (2,)),
    ),
}  # fmt: skip


def _squares(function: Function) -> Function:
    return lambda *operands: function(*operands).square().sum()


def _shared(count: int) -> tuple[int | None, ...]:
    """in_dims of vmap over the first operand alone."""
    return (0, *[None] * (count - 1))


def _dual(function: Function, operands: tuple[Tensor, ...]) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(*(forward_ad.make_dual(t, 0.3 * t) for t in operands))).tangent
    assert tangent is not None
    return tangent


TRANSFORMS: dict[str, Callable[[Function, tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, t: grad(_squares(f), tuple(range(len(t))))(*t),
    "vmap": lambda f, t: vmap(f)(*(torch.stack([a, a / 2 + 0.1, a - 0.3]) for a in t)),
    "vmap over the input": lambda f, t: vmap(f, _shared(len(t)), 1)(torch.stack([t[0], t[0] - 0.3]), *t[1:]),
    "vmap over the last axis": lambda f, t: vmap(f, -1)(*(torch.stack([a, a - 0.3], -1) for a in t)),
    "vmap over the weights": lambda f, t: (
        vmap(f, (None, *[0] * (len(t) - 1)))(t[0], *(torch.stack([a, a - 0.3]) for a in t[1:])) if len(t) > 1 else None
    ),
    "gradients of each sample": lambda f, t: vmap(grad(_squares(f), tuple(range(len(t)))), _shared(len(t)))(
        torch.stack([t[0], t[0] - 0.3]), *t[1:]
    ),
    "grad of vmap": lambda f, t: (
        grad(lambda *a: vmap(f, _shared(len(t)))(torch.stack([t[0], t[0] - 0.3]), *a[1:]).square().sum(), len(t) - 1)(
            *t
        )
        if len(t) > 1
        else None
    ),
    "jvp": lambda f, t: jvp(f, t, tuple(a * 0.7 + 0.2 for a in t)),
    "jvp by the input": lambda f, t: jvp(lambda x: f(x, *t[1:]), t[:1], t[:1]),
    "jacrev": lambda f, t: jacrev(f, tuple(range(len(t))))(*t),
    "jacfwd": lambda f, t: jacfwd(f, tuple(range(len(t))))(*t),
    "hessian": lambda f, t: hessian(_squares(f), len(t) - 1)(*t),
    "grad of grad": lambda f, t: grad(lambda *a: grad(_squares(f), 0)(*a).square().sum(), len(t) - 1)(*t),
    "dual numbers": _dual,
    "jacobian by vmap": lambda f, t: torch.autograd.functional.jacobian(f, t, vectorize=True),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", CASES)
def test_transforms_give_torchs_results(name: str, transform: str) -> None:
    ours, theirs, shapes = CASES[name]
    operands = tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)
    run = TRANSFORMS[transform]
    torch.testing.assert_close(run(ours, operands), run(theirs, operands))


def test_grad_disabled_outside_does_not_silence_a_transform() -> None:
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    with torch.no_grad():
        dw = grad(lambda w: functional.conv2d(x, w).sum())(w)
        _, dy = jvp(lambda w: functional.conv2d(x, w), (w,), (w,))
    torch.testing.assert_close(dw, grad(lambda w: torch_f.conv2d(x, w).sum())(w))
    torch.testing.assert_close(dy, torch_f.conv2d(x, w))


def test_indices_under_vmap() -> None:
    x = torch.randn(3, 2, 4, 6, 6)
    for pool in (lambda m, x: m.max_pool2d(x, 2, return_indices=True), lambda m, x: m.adaptive_max_pool2d(x, 2, True)):
        ours, theirs = (vmap(lambda x, m=m, pool=pool: pool(m, x))(x) for m in (functional, torch_f))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", sorted(ops.RULES))
def test_every_operator_with_a_derivative_has_one_in_forward_mode(name: str) -> None:
    from fastconv.ops.autograd_forward import JVPS

    assert name in JVPS


def test_a_direct_call_of_an_operator_keeps_its_tangent_or_refuses() -> None:
    x = torch.randn(2, 3, 4, 4)

    def pool(x: Tensor) -> Tensor:
        return ops.native.adaptive_avg_pool2d(x, [2, 2], "")

    expected = torch_f.adaptive_avg_pool2d(x, 2)
    torch.testing.assert_close(_dual(pool, (x,)), 0.3 * expected)
    torch.testing.assert_close(vmap(pool)(torch.stack([x, x])), torch.stack([expected, expected]))
    for transform in (lambda: jvp(pool, (x,), (x,)), lambda: grad(lambda x: pool(x).sum())(x)):
        with pytest.raises(NotImplementedError, match="direct call of the registered operator"):
            transform()


def test_the_third_derivative_of_an_activation_is_refused() -> None:
    third = grad(grad(grad(lambda x: functional.silu(x))))
    with pytest.raises(RuntimeError, match="silu has no third derivative"):
        third(torch.tensor(0.5))
