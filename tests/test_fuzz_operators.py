"""Operators called directly, below the checks of fastconv.functional, with operands that do not belong together.

Nothing may crash the interpreter or be written through, so nothing here needs a process of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from fuzzing import REFUSALS, extent, image, memory, outcome, parameter, tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastconv import functional, ops

wild_tensor = st.builds(
    tensor,
    st.one_of(image, st.lists(extent, max_size=5).map(tuple)),
    st.sampled_from([torch.float32] * 6 + [torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    memory,
)
wild_ints = st.one_of(
    st.lists(parameter, min_size=2, max_size=2),
    st.lists(parameter, min_size=4, max_size=4),
    st.lists(st.sampled_from([*range(-2, 8), 2**31, 2**62, -(2**62)]), max_size=5),
)


def wild(kind: str, acts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Values of a schema's argument type."""
    return {
        "Tensor": wild_tensor,
        "Optional[Tensor]": st.one_of(st.none(), wild_tensor),
        "List[int]": wild_ints,
        "int": st.sampled_from([-1, 0, 1, 1, 1, 2, 3, 64, 2**31, 2**62]),
        "float": st.sampled_from([0.0, 0.5, -1.0, float("nan"), float("inf")]),
        "bool": st.booleans(),
        "str": acts,
    }[kind]


@pytest.mark.parametrize("name", ops.operator_names())
def test_operators_survive_anything(name: str) -> None:
    operator = getattr(ops.native, name)
    kinds = [(a.name, str(a.type)) for a in operator._schema.arguments]
    algorithms = ("", "direct", "tiled", "depthwise", "phases", "no such")
    words = {
        "act": st.sampled_from([*functional.ACTIVATIONS, "no such"]),
        "algo": st.sampled_from(algorithms),
        "backend": st.sampled_from(["", "", "", "cpu", "no such"]),
    }

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def survive(data: st.DataObject) -> None:
        arguments = [data.draw(wild(kind, words.get(key, st.just("")))) for key, kind in kinds]
        result = outcome(lambda: operator(*arguments))
        assert not isinstance(result, Exception) or isinstance(result, REFUSALS), repr(result)

    survive()


def _packed() -> tuple[Tensor, Tensor, Tensor, list[Any]]:
    x, w = torch.randn(1, 32, 8, 8), torch.randn(48, 32, 3, 3)
    packed = ops.native.pack_conv2d_weight(w, 1)
    rest = [None, [1, 1], [1, 1, 1, 1], [1, 1], 1, None, None, None, "identity", 0.0, None, "", ""]
    return x, w, packed, rest


def test_packed_weights_that_do_not_belong_are_refused() -> None:
    x, w, packed, rest = _packed()
    assert packed.numel()
    torch.testing.assert_close(
        ops.native.conv2d(x, w, *rest, packed), torch_f.conv2d(x, w, padding=1), rtol=1e-4, atol=1e-4
    )
    foreign = [
        torch.zeros_like(packed),
        packed[:-1],
        packed[::2],
        packed.double(),
        packed[:20].clone(),
        packed[:33].clone(),
        torch.randn(7),
        packed.view(torch.uint8)[:1000],
        ops.native.pack_conv2d_weight(w[:, :16].contiguous(), 2),
        ops.native.pack_conv2d_weight(w[:40], 1),
        ops.native.pack_conv2d_weight(w.bfloat16(), 1),
        ops.native.pack_conv2d_weight(w[:, :, :1].contiguous(), 1),
        ops.native.pack_gemm_b(torch.randn(32, 48), False),
        ops.native.pack_transpose_weight(w, [1, 1], [1, 1], [1, 1], 1),
        ops.native.pack_upsample_weight(w, [2, 2], [1, 1], [1, 1, 1, 1], [1, 1], 1),
    ]
    for other in foreign:
        if other.numel():
            with pytest.raises(ValueError, match="packed"):
                ops.native.conv2d(x, w, *rest, other)


@pytest.mark.parametrize("index", [-2, 30, 2**40, -(2**62)])
def test_indices_outside_the_image_are_not_written_through(index: int) -> None:
    dy = torch.ones(1, 2, 2, 3)
    indices = torch.zeros(1, 2, 2, 3, dtype=torch.int64)
    indices[0, 1, 1, 2] = index
    with pytest.raises(ValueError, match="indices"):
        ops.native.max_pool2d_backward(dy, indices, [1, 2, 5, 6], [2, 2], [2, 2], [0, 0], [1, 1], False, "")
    with pytest.raises(ValueError, match="indices"):
        ops.native.adaptive_max_pool2d_backward(dy, indices, [1, 2, 5, 6], "")
