"""Every Triton kernel compiles for real GPUs, which needs none: Triton brings its own assembler.

`make triton-check` does so in every dtype, layout and architecture and prints what each kernel takes.
"""

from __future__ import annotations

import pytest
import torch

from buildtools import triton_check
from fastconv import backends

pytestmark = pytest.mark.skipif(
    backends.why_unavailable("triton_interpreted") is not None, reason="Triton is not installed"
)


# All kernels; half precision and float32 where their products differ by architecture, float64 for the sums.
@pytest.mark.parametrize(
    ("dtype", "last", "arch"), [(torch.bfloat16, True, 90), (torch.float32, False, 80)], ids=["bf16-sm90", "fp32-sm80"]
)
def test_every_kernel_compiles_without_spills(dtype: torch.dtype, last: bool, arch: int) -> None:
    found = list(triton_check.check(dtype, last, arch))
    assert {"implicit_gemm", "depthwise", "gemm", "weight_grad", "pool"} <= {u.kernel.split()[0] for u in found}
    assert not [u for u in found if u.spills]


@pytest.mark.parametrize("name", ["gemm", "conv2d_stem", "weight_grad", "softmax"])
def test_double_precision_compiles(name: str) -> None:
    assert list(triton_check.check(torch.float64, False, 80, only=name))


def test_the_table_is_filled_by_what_would_be_launched() -> None:
    with triton_check.recorded() as launches:
        triton_check.calls(torch.float16, True)["weight_grad"]()
    kernels = [launch.kernel.__name__ for launch in launches]
    assert kernels == ["weight_grad", "reduce"]  # runs of pixels, then their sum
    assert dict(launches[0].signature)["dy"] == "*fp16" and 0 in launches[0].divisible
