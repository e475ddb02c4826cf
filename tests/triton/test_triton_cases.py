"""The cases of `fastconv verify` on the Triton kernels in their interpreter: a share of each operator's.

`fastconv verify --backend triton_interpreted` runs all of them in every dtype and layout.
"""

from __future__ import annotations

import zlib

import pytest
import torch

from fastconv import backends, introspection
from fastconv.triton import conv
from fastconv.verify import runner
from fastconv.verify.case import LAYOUTS, Case
from fastconv.verify.cases import all_cases, cases_of, parse

pytestmark = pytest.mark.skipif(
    backends.why_unavailable("triton_interpreted") is not None, reason="Triton is not installed"
)
INTERPRETED = [("triton_interpreted", "")]


def _draw(case: Case, count: int) -> int:
    return zlib.crc32(str(case).encode()) % count


def _check(case: Case, dtype: torch.dtype, layout: str, algorithm: str | None = None) -> None:
    outcomes: runner.Outcomes = {}
    runner.run_case(case, dtype, layout, INTERPRETED, algorithm, outcomes)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    assert not failures, "\n".join(failures)
    assert any(outcome.passed for outcome in outcomes.values())


@pytest.mark.parametrize("case", [case for case in all_cases() if _draw(case, 5) == 0], ids=str)
def test_case(case: Case) -> None:
    _check(case, runner.DTYPES[_draw(case, 4)], LAYOUTS[_draw(case, 2)])


def test_every_operator_is_drawn() -> None:
    assert {case.op for case in all_cases() if _draw(case, 5) == 0} == {case.op for case in all_cases()}


ALGORITHMS = [
    (op, name) for op in introspection.OPERATORS for name in introspection.algorithm_names(op, "triton_interpreted")
]


@pytest.mark.parametrize(("op", "algorithm"), ALGORITHMS)
def test_every_algorithm_serves_a_case(op: str, algorithm: str) -> None:
    for case in cases_of(op)[3:]:
        outcomes: runner.Outcomes = {}
        runner.run_case(case, torch.float32, "nhwc", INTERPRETED, algorithm, outcomes)
        if any(outcome.passed or outcome.failures for outcome in outcomes.values()):
            break
    assert [outcome.passed for outcome in outcomes.values()] == [1]


# Channels that fill their blocks, and many that do not: a block of the reduction within one tap.
@pytest.mark.parametrize("problem", ["mb1ic128ih4oc17kh3ph1", "mb1ic520ih3oc4kh3ph1", "g2mb1ic128ih3oc6kh2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_within_a_tap(problem: str, dtype: torch.dtype) -> None:
    _check(parse("conv2d", problem), dtype, "nhwc", "implicit_gemm")


WIDE = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "max_pool2d", "softmax", "im2col", "activation")


@pytest.mark.parametrize("op", WIDE)
def test_offsets_of_64_bits(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant for tensors of more than 2^31 elements, on small ones."""
    from fastconv.triton import elementwise, pooling, resample

    for module in (conv, elementwise, pooling, resample):
        monkeypatch.setattr(module, "is_wide", lambda *tensors, **reach: True)
    for case in cases_of(op)[2:40:9]:
        _check(case, torch.float32, "nhwc")


@pytest.mark.parametrize("tiles", [(16, 16, 16), (32, 16, 32)], ids=str)
def test_many_small_tiles(tiles: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's tiles are large, so that small problems have few; a GPU's are not."""
    from fastconv.triton import gemm
    from fastconv.triton.tiles import ProductTile

    def small(*_: object) -> ProductTile:
        return ProductTile(*tiles, warps=4, stages=1)

    for module in (conv.tiles, gemm.tiles):
        monkeypatch.setattr(module, "product_tile", small)
        monkeypatch.setattr(module, "INTERPRETED_ELEMENTS", 64)
    _check(parse("gemm", "m45k70n37"), torch.float32, "nchw")
    _check(parse("conv2d", "mb2ic20ih7iw5oc37kh3ph1"), torch.float16, "nhwc")
    _check(parse("conv2d_weight_grad", "mb2ic5ih9iw8oc18kh3ph1"), torch.float32, "nchw")
    _check(
        parse("conv2d", "g20mb2ic20ih7iw5oc40kh3ph1", act="prelu", alpha="full"), torch.bfloat16, "nhwc", "depthwise"
    )
    _check(parse("max_pool2d", "mb2ic5ih9iw8kh3sh2ph1"), torch.float32, "nchw")
