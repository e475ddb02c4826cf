"""torch's fused optimizers on parameters of any type: what notes their steps disturbs none of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from fastconv.functional import edits


def _step(parameter: nn.Parameter) -> None:
    parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam([parameter], lr=0.1, fused=True).step()


def test_a_wrapper_counts_as_everything_written() -> None:
    before, other = edits.steps, torch.randn(3)
    inner = torch.zeros(3), torch.zeros(3)
    _step(nn.Parameter(TwoTensor(*inner)))
    assert edits.written_since(before, other)
    assert not edits.written_since(edits.steps, other)


def test_the_table_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "MOST", 4)
    before, kept = edits.steps, [nn.Parameter(torch.randn(3)) for _ in range(20)]
    for parameter in kept:
        _step(parameter)
        assert len(edits._last) <= 4
    assert all(edits.written_since(before, parameter) for parameter in kept)
