"""Packed weights of upsample_conv2d: a call that brings them is served by every algorithm, which reads only its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastconv import introspection, ops

ISAS = introspection.available_isas()
# scale, stride, padding, filter side, channels, filters, groups
CASES = [
    ((2, 2), 1, 1, 3, 16, 32, 1),
    ((2, 1), 2, 2, 5, 6, 9, 3),
    ((1, 1), 1, 1, 3, 8, 16, 1),
    ((3, 2), 1, 0, 1, 8, 8, 1),
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = introspection.isa()
    introspection.select_isa(request.param)
    yield request.param
    introspection.select_isa(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_algorithm_takes_a_call_with_packed_weights(isa: str, dtype: torch.dtype, case: tuple) -> None:  # type: ignore[type-arg]
    scale, stride, padding, side, channels, filters, groups = case
    torch.manual_seed(0)
    x = torch.randint(-3, 4, (2, channels, 7, 6)).to(dtype)
    w = torch.randint(-2, 3, (filters, channels // groups, side, side)).to(dtype)
    geometry = (list(scale), [stride] * 2, [padding] * 4, [1, 1], groups)

    def run(algo: str, packed: Tensor | None) -> Tensor:
        rest = (None, None, None, "identity", 0.0, None, algo, "", packed)
        return ops.native.upsample_conv2d(x, w, None, *geometry, *rest)

    packed = ops.native.pack_upsample_weight(w, *geometry)
    assert packed.numel() > 0
    expected = run("gather", None)
    served = 0
    for algorithm in introspection.algorithms("upsample_conv2d"):
        try:
            alone = run(algorithm.name, None)
        except RuntimeError as error:
            assert "not served" in str(error)
            with pytest.raises(RuntimeError, match="not served"):
                run(algorithm.name, packed)
            continue
        served += 1
        assert torch.equal(alone, expected)  # sums of small integers are exact in any order
        assert torch.equal(run(algorithm.name, packed), alone), algorithm.name
    assert served >= 2
    assert torch.equal(run("", packed), expected)
