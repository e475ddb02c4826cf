"""What `convert(dtype=torch.bfloat16)` computes in on a CPU: bfloat16 where instructions multiply it, else float32."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from fastconv import backends, introspection

# Algorithms that multiply bfloat16; the others widen it, which is float32's speed at less than its accuracy.
MULTIPLYING = ("amx", "avx512_bf16")


def arithmetic_type(dtype: torch.dtype | None, model: nn.Module) -> torch.dtype | None:
    """`dtype`, or float32 for bfloat16 in the compiled CPU kernels of an instruction set that cannot multiply it."""
    if dtype is not torch.bfloat16:
        return dtype
    tensors = itertools.chain(model.parameters(), model.buffers())
    on_cpu = all(t.device.type == "cpu" and backends.resolve(t.device) == "cpu" for t in tensors)
    return torch.float32 if on_cpu and not multiplies_bfloat16() else dtype


def multiplies_bfloat16() -> bool:
    """Whether a product in bfloat16 is taken by an algorithm that does not widen it."""
    return introspection.explain("gemm", M=64, N=64, K=64, dtype="bfloat16").chosen in MULTIPLYING


def why_not(dtype: torch.dtype | None, computed: torch.dtype | None) -> list[str]:
    """A line for `explain` where the type asked for is not the one computed in."""
    if dtype is computed:
        return []
    return [
        f"{dtype} was asked for, float32 is computed in: no kernel of this CPU ({introspection.isa()}) multiplies "
        "bfloat16 faster, and float32 rounds less"
    ]
