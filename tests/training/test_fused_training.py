"""Blocks that fuse, in training: values, gradients, second derivatives and running statistics are torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastconv.nn import ConvBNAct2d, UpsampleConv2d

FORMS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cumulative": {"momentum": None},
    "not_affine": {"affine": False},
    "untracked": {"track_running_stats": False},
    "eps": {"eps": 0.1, "momentum": 0.5},
}


def twins(kind: str, act: nn.Module, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A block of ours and torch's modules one after the other, with the same weights."""
    torch.manual_seed(0)
    upsample, conv = nn.Upsample(scale_factor=2), nn.Conv2d(4, 6, 3, padding=1, bias=False)
    bn = nn.BatchNorm2d(6, **options)
    if bn.weight is not None:
        nn.init.uniform_(bn.weight, -1, 1)
        nn.init.uniform_(bn.bias)
    parts = (copy.deepcopy(conv), copy.deepcopy(bn), copy.deepcopy(act))
    if kind == "conv":
        return ConvBNAct2d.from_torch(*parts), nn.Sequential(conv, bn, act)
    return UpsampleConv2d.from_torch(upsample, *parts), nn.Sequential(upsample, conv, bn, act)


def report(module: nn.Module, x: Tensor, steps: int = 2) -> list[Tensor]:
    """Outputs, gradients and buffers of some steps."""
    found: list[Tensor] = []
    for step in range(steps):
        leaf = (x * (step + 1)).detach().requires_grad_()
        y = module(leaf)
        generator = torch.Generator().manual_seed(step)
        dy = torch.randn(y.shape, generator=generator).to(y.dtype)
        grads = torch.autograd.grad(y, [leaf, *module.parameters()], dy)
        found += [y.detach(), *grads]
    return [*found, *(b.clone() for b in module.buffers())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("kind", ["conv", "upsample"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_as_near_to_float64_as_torch(options: dict[str, Any], kind: str, layout: str, dtype: torch.dtype) -> None:
    # No kink for bfloat16: a value that rounds to the other side of it is off by the whole slope.
    ours, theirs = twins(kind, nn.PReLU(6) if dtype is torch.float32 else nn.SiLU(), **options)
    x = torch.randn(3, 4, 6, 5).to(dtype).contiguous(memory_format=FORMS[layout])
    truth = report(copy.deepcopy(theirs).to(dtype).double(), x.double())
    mine, other = report(ours.to(dtype), x), report(theirs.to(dtype), x)
    share = {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    for a, b, exact in zip(mine, other, truth, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (a - exact).abs().max() <= 2 * (b - exact).abs().max() + share * exact.abs().max()
    assert mine[0].stride() == other[0].stride()


@pytest.mark.parametrize("act", [nn.SiLU(), nn.PReLU(6)], ids=lambda act: type(act).__name__)
@pytest.mark.parametrize("kind", ["conv", "upsample"])
def test_second_derivatives(kind: str, act: nn.Module) -> None:
    ours, _ = twins(kind, act)
    ours = ours.double()
    names = [name for name, _ in ours.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in ours.named_buffers()}

    def call(x: Tensor, *weights: Tensor) -> Any:
        state = {**dict(zip(names, weights, strict=True)), **{k: v.clone() for k, v in buffers.items()}}
        return torch.func.functional_call(ours, state, (x,))

    operands = [torch.randn(2, 4, 3, 3, dtype=torch.float64), *(p.detach().clone() for p in ours.parameters())]
    leaves = [t.requires_grad_() for t in operands]
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv", "upsample"])
def test_empty_batches_and_single_values(kind: str) -> None:
    ours, theirs = twins(kind, nn.ReLU())
    for shape in ((0, 4, 6, 5), (0, 4, 1, 1)):
        for mine, other in zip(report(ours, torch.randn(shape)), report(theirs, torch.randn(shape)), strict=True):
            torch.testing.assert_close(mine, other)
    if kind == "conv":
        texts = []
        for module in (ours, theirs):
            with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
                module(torch.randn(1, 4, 1, 1))
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")], ids=str)
def test_a_bad_value_spoils_its_channel_only(bad: float) -> None:
    conv, bn = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
    nn.init.dirac_(conv.weight)
    theirs = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3, bias=False), copy.deepcopy(bn), nn.ReLU())
    nn.init.ones_(theirs[0].weight)  # type: ignore[arg-type]
    grouped = copy.deepcopy(theirs[0])
    ours = ConvBNAct2d.from_torch(grouped, bn, nn.ReLU())  # type: ignore[arg-type]
    x = torch.randn(2, 3, 4, 4)
    x[1, 2, 0, 3] = bad
    y, expected = ours(x), theirs(x)
    assert torch.equal(y.isnan(), expected.isnan()) and y[:, 2].isnan().all() and not y[:, :2].isnan().any()
    torch.testing.assert_close(y[:, :2], expected[:, :2], rtol=1e-4, atol=1e-5)


def test_the_block_stays_what_replace_makes_of_its_parts() -> None:
    """Fused or one for one: the same step, so a network may mix them."""
    import fastconv

    ours, theirs = twins("conv", nn.ReLU())
    x = torch.randn(3, 4, 6, 5)
    for mine, other in zip(report(ours, x), report(fastconv.replace(theirs), x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
