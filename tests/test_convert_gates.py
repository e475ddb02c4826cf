"""fastconv.convert on what models spell out: hard gates, BatchNorm without a convolution before it, softmax; and the
reasons that `explain` gives for the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from converting import assert_like, served
from networks import randomise
from torch import Tensor, nn

from fastconv.convert import convert, explain, ir

GATES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "product first": ("hardswish", lambda x: x * F.relu6(x + 3.0) / 6.0),
    "in place": ("hardswish", lambda x: x * F.relu6(x + 3, inplace=True) / 6),
    "gate first": ("hardswish", lambda x: F.relu6(3 + x) / 6 * x),
    "by a sixth": ("hardswish", lambda x: x * (torch.clamp(x.add(3), 0, 6) * (1 / 6))),
    "hardtanh": ("hardswish", lambda x: x.mul(F.hardtanh(x + 3, 0.0, 6.0)).div(6)),
    "gate alone": ("hardsigmoid", lambda x: F.relu6(x + 3) / 6),
    "module": ("hardswish", lambda x: x * F.hardsigmoid(x)),
    "silu": ("silu", lambda x: x * x.sigmoid()),
}
NOT_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "other shift": lambda x: x * F.relu6(x + 2) / 6,
    "other divisor": lambda x: x * F.relu6(x + 3) / 5,
    "other factor": lambda x: (x + 1) * F.relu6(x + 3) / 6,
    "scaled shift": lambda x: x * F.relu6(torch.add(x, 3, alpha=2)) / 6,
    "turned over": lambda x: 6 / (x * F.relu6(x + 3) + 40),
    "read elsewhere": lambda x: (g := F.relu6(x + 3)) * x / 6 + g,
}


class _Gated(nn.Module):
    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bn, self.gate = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.bn(self.conv(x)))


@pytest.mark.parametrize("name", GATES)
def test_gates(name: str) -> None:
    act, gate = GATES[name]
    model = randomise(_Gated(gate))
    converted = convert(model)
    assert_like(model, converted, 4 * torch.randn(2, 3, 9, 9))
    (conv,) = served(converted)
    assert conv.act.name == act and not explain(converted).left


@pytest.mark.parametrize("name", NOT_GATES)
def test_what_only_looks_like_a_gate(name: str) -> None:
    model = randomise(_Gated(NOT_GATES[name]))
    converted = convert(model)
    assert_like(model, converted, 4 * torch.randn(2, 3, 9, 9))
    assert explain(converted).left and not any(
        spec.act.name.startswith("hards") for spec in served(converted) if isinstance(spec, ir.Conv | ir.Act)
    )


class _Dense(nn.Module):
    """Pre-activation: BatchNorm after a concatenation, with an activation, and one whose input is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8)
        self.conv2, self.bn2, self.conv3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv2(self.act(self.bn1(torch.cat([x, self.conv1(x)], dim=1))))
        z = self.conv3(F.relu(self.bn2(y), inplace=True)) + y[:, :4]
        return torch.softmax(z, dim=1), F.softmax(z.flatten(2), -1)


def test_norms_and_softmax_by_themselves() -> None:
    model = randomise(_Dense())
    converted = convert(model)
    for x in (torch.randn(1, 3, 8, 8), torch.randn(2, 3, 5, 9).contiguous(memory_format=torch.channels_last)):
        assert_like(model, converted, x)
    norms = [spec for spec in served(converted) if isinstance(spec, ir.Normalise)]
    assert [norm.act.name for norm in norms] == ["prelu", "relu"]
    assert [spec.dim for spec in served(converted) if isinstance(spec, ir.Softmax)] == [1, -1]
    with torch.no_grad():
        model.bn1.running_mean.add_(1)  # type: ignore[union-attr, operator]
        model.bn2.weight.mul_(-2)
        model.act.weight.add_(0.25)
    assert_like(model, converted, torch.randn(1, 3, 8, 8))
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(
        torch.autograd.grad(converted(x)[0][:, 0].sum(), x)[0], torch.autograd.grad(model(x)[0][:, 0].sum(), x)[0]
    )
    assert_like(model, convert(model, dtype=torch.float32), torch.randn(1, 3, 8, 8))
    half = convert(model, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(half(x)[0].float(), model(x)[0], atol=0.05, rtol=0.05)


class _Left(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.soft = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Softmax()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y = torch.cat([y * 2, F.pixel_shuffle(y, 2).repeat(1, 4, 1, 1)[..., ::2, ::2]], dim=1)
        return self.soft((y.flatten(2) @ y.flatten(2).transpose(1, 2)).mean(1))


def test_reasons_for_what_is_left() -> None:
    converted = convert(randomise(_Left()))
    with torch.no_grad(), pytest.warns(UserWarning, match="Implicit dimension"):
        converted(torch.randn(1, 3, 8, 8))
    why = {row.operation: row.why for row in explain(converted).left}
    assert next(row.kernel for row in explain(converted).rows if row.operation == "cat") == "copy"  # in the plan
    converted.region.store.plans_allowed = False
    why |= {row.operation: row.why for row in explain(converted).left}
    assert why["GroupNorm"].startswith("it normalises by statistics of its input")
    assert why["cat"].startswith("a concatenation copies each part once")
    assert why["mul"].startswith("arithmetic by itself") and why["matmul"].startswith("products of two computed")
    assert why["mean"].startswith("a sum over part") and why["pixel_shuffle"].startswith("it moves values")
    assert why["Softmax"].startswith("its dimension depends")
