"""Copies, sums and products of network plans on the emulated GPU, against torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import _C
from fastconv.convert.plan.target import Target
from fastconv.convert.plan.values import DTYPES

pytestmark = pytest.mark.skipif(
    fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
)
SHAPE = (2, 8, 5, 12)


def combine(what: str, operands: list[Tensor]) -> None:
    """Into the last one."""
    target = Target("cuda_emulated", torch.device("cpu"))
    recorder = target.recorder()
    noted = [(i, 0, DTYPES[x.dtype], list(x.shape), list(x.stride())) for i, x in enumerate(operands)]
    recorder.combine(what, noted)
    places = [(1 + i, 0, ()) for i in range(len(operands))]
    plan = recorder.finish(places, set(), 0, len(operands) - 1, 1, _C.ArenaPool())
    target.run(plan, operands[:-1], operands[-1:])


def values(dtype: torch.dtype, layout: str) -> Tensor:
    x = (torch.randn(SHAPE, dtype=torch.float64) * 100).to(dtype)
    match layout:
        case "nchw":
            return x
        case "nhwc":
            return x.contiguous(memory_format=torch.channels_last)
        case "part":  # of a concatenation, at the start of no chunk
            whole = torch.zeros(2, 5, 12, 19, dtype=dtype).permute(0, 3, 1, 2)
            whole[:, 3:11] = x
            return whole[:, 3:11]
        case "row":
            return x[:, :, :1].expand(SHAPE)
        case "channel":
            return x[:, :1].expand(SHAPE)
        case _:
            return x[:1, :, :1, :1].expand(SHAPE)


LAYOUTS = ("nchw", "nhwc", "part", "row", "channel", "gate")


@pytest.mark.parametrize("to", ["nchw", "nhwc", "part"])
@pytest.mark.parametrize("source", LAYOUTS)
def test_copies_between_layouts(source: str, to: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, y = values(dtype, source), torch.empty_like(values(dtype, to)).fill_(7)
        combine("copy", [x, y])
        assert torch.equal(x, y)


@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversions(source: torch.dtype, to: torch.dtype) -> None:
    for layout in ("nchw", "part"):
        x = values(source, layout)
        x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0], dtype=source)
        y = torch.zeros(SHAPE, dtype=to).contiguous(memory_format=torch.channels_last)
        combine("copy", [x, y])
        narrow = x if source is not torch.float64 or to in (torch.float32, torch.float64) else x.float()
        torch.testing.assert_close(y, narrow.to(to).contiguous(memory_format=torch.channels_last), rtol=0, atol=0,
                                   equal_nan=True)  # fmt: skip


@pytest.mark.parametrize("what", ["add", "mul"])
@pytest.mark.parametrize("b", LAYOUTS)
@pytest.mark.parametrize("a", ["nchw", "nhwc", "part", "gate"])
def test_sums_and_products(what: str, a: str, b: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x, z = values(dtype, a), values(dtype, b)
        y = torch.full(SHAPE, 7.0, dtype=dtype).contiguous(memory_format=torch.channels_last)
        combine(what, [x, z, y])
        assert torch.equal(y, x + z if what == "add" else x * z)


def test_in_place() -> None:
    x, z = values(torch.float32, "nhwc"), values(torch.float32, "gate")
    expected = x * z
    combine("mul", [x, z, x])
    assert torch.equal(x, expected)
