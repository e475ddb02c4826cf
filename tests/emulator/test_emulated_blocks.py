"""Fused blocks on tensor cores, executed by the emulator, against their stages in float64.

Small integers and relu6 between the stages: exact in both types, so compared bit for bit. Shapes have several tiles in
both directions, images that end inside a tile, hidden channels for three chunks and more (weights are copied one chunk
ahead, into two buffers in turn), and channels, hidden channels and filters that end inside a fragment.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as torch_f
from emulator_build import build_client
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import functional, introspection
from fastconv.functional import Stage

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

HALF, BFLOAT16 = torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Block:
    """An input, the hidden channels, the filters, the window. Few multiprocessors make tiles large, many small."""

    image: tuple[int, int, int, int]
    hidden: int
    filters: int
    window: tuple[int, int] = (3, 3)
    options: dict[str, Any] = field(default_factory=lambda: {"padding": 1})

    def stages(self, dtype: torch.dtype, expands: bool, act: str = "relu6") -> tuple[Stage, ...]:
        channels = self.image[1] if expands else self.hidden
        shapes = [(self.hidden, 1, *self.window), (self.filters, self.hidden, 1, 1)]
        shapes = [(self.hidden, channels, 1, 1), *shapes] if expands else shapes
        acts = [act] * (len(shapes) - 1) + ["identity"]
        return tuple(
            Stage(integers(shape, dtype, -1, 1), integers(shape[:1], dtype), name)
            for shape, name in zip(shapes, acts, strict=True)
        )

    def input(self, dtype: torch.dtype, expands: bool) -> torch.Tensor:
        n, c, h, w = self.image
        x = integers((n, c if expands else self.hidden, h, w), dtype)
        return x.contiguous(memory_format=torch.channels_last)


BLOCKS = {
    "tiles": Block((1, 16, 19, 21), 104, 24),
    "strided": Block((2, 24, 15, 18), 40, 40, options={"padding": 1, "stride": 2}),
    "five": Block((1, 8, 13, 11), 72, 16, (5, 5), {"padding": 2}),
    "five-strided": Block((1, 40, 14, 13), 48, 80, (5, 5), {"padding": (2, 1), "stride": 2}),
    "wide": Block((1, 33, 7, 7), 100, 200),
    "ragged": Block((1, 5, 9, 10), 37, 7),
    "dilated": Block((1, 16, 12, 13), 64, 24, (3, 3), {"padding": 2, "dilation": 2}),
    "uneven": Block((1, 16, 11, 12), 64, 24, (2, 4), {"padding": 1, "stride": (3, 1), "dilation": (1, 2)}),
    "padding": Block((1, 16, 3, 2), 40, 16, options={"padding": 5}),
}


def integers(shape: tuple[int, ...], dtype: torch.dtype, low: int = -2, high: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def expected(x: torch.Tensor, stages: tuple[Stage, ...], options: dict[str, Any]) -> torch.Tensor:
    y = x.double()
    for stage in stages:
        window = stage.weight.shape[1] == 1 and stage.weight.shape[0] == y.shape[1] and stage is not stages[-1]
        more = {**options, "groups": y.shape[1]} if window else {}
        y = torch_f.conv2d(y, stage.weight.double(), stage.bias.double(), **more)
        y = torch_f.relu6(y) if stage.act == "relu6" else y
    return y


def run(x: torch.Tensor, stages: tuple[Stage, ...], options: dict[str, Any], **more: Any) -> torch.Tensor:
    block = functional.inverted_residual if len(stages) == 3 else functional.depthwise_pointwise
    with fastconv.backend("cuda_emulated"):
        return block(x, *stages, **options, **{"algo": "fused_mma", **more})


def check(block: Block, dtype: torch.dtype, expands: bool) -> None:
    x, stages = block.input(dtype, expands), block.stages(dtype, expands)
    y = run(x, stages, block.options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    truth = expected(x, stages, block.options).to(dtype)
    torch.testing.assert_close(y, truth, rtol=0, atol=0, check_stride=False)


@pytest.mark.parametrize("multiprocessors", ["1", "132"])
@pytest.mark.parametrize("expands", [True, False], ids=["expand", "pair"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_exact(name: str, expands: bool, multiprocessors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", multiprocessors)
    for dtype in (HALF, BFLOAT16):
        check(BLOCKS[name], dtype, expands)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize("copies", ["eager", "rand:1"])
def test_schedules(schedule: str, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    for expands in (True, False):
        check(Block((1, 24, 9, 10), 104, 40), BFLOAT16, expands)


@pytest.mark.parametrize("operand", ["nchw", "sliced", "offset", "residual"])
def test_operands_in_any_layout(operand: str) -> None:
    block = Block((2, 16, 9, 7), 40, 16)
    x, stages = block.input(HALF, True), block.stages(HALF, True)
    residual = integers((2, 16, 9, 7), HALF, -3, 3)
    truth = expected(x, stages, block.options) + residual
    if operand == "nchw":
        x, residual = x.contiguous(), residual.contiguous()
    elif operand == "sliced":
        large = x.new_zeros((2, 17, 9, 14))
        large[:, 1:, :, ::2] = x
        x = large[:, 1:, :, ::2]
    elif operand == "offset":  # weights one element off every alignment
        stages = tuple(
            s._replace(weight=s.weight.new_zeros(s.weight.numel() + 1)[1:].view(s.weight.shape).copy_(s.weight))
            for s in stages
        )
    else:
        residual = residual.contiguous(memory_format=torch.channels_last)
    y = run(x, stages, block.options, residual=residual)
    torch.testing.assert_close(y, truth.to(HALF), rtol=0, atol=0, check_stride=False)


def test_nothing_outside_the_image_reaches_the_window() -> None:
    """act(bias) is not zero: a hidden pixel beyond the border must be."""
    block = Block((1, 8, 5, 6), 32, 8)
    x, stages = block.input(HALF, True), block.stages(HALF, True, "sigmoid")
    stages = (stages[0]._replace(bias=torch.full((32,), 4.0, dtype=HALF)), *stages[1:])
    hidden = torch_f.conv2d(x.float(), stages[0].weight.float(), stages[0].bias.float()).sigmoid().half()
    y = torch_f.conv2d(hidden.float(), stages[1].weight.float(), stages[1].bias.float(), padding=1, groups=32)
    y = torch_f.conv2d(y.sigmoid().half().float(), stages[2].weight.float(), stages[2].bias.float())
    torch.testing.assert_close(run(x, stages, {"padding": 1}).float(), y, rtol=2e-3, atol=4e-3, check_stride=False)


def test_explain_says_why_not() -> None:
    def reasons(**problem: Any) -> str:
        fields: dict[str, Any] = {"N": 1, "C": 16, "hidden": 96, "K": 24, "H": 14, "W": 14, "R": 3, "S": 3}
        fields |= {"pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1, "dtype": "float16"}
        answer = introspection.explain("inverted_residual", backend="cuda_emulated", **fields | problem)
        (row,) = [row for row in answer.candidates if row.name == "fused_mma"]
        return "; ".join(row.reasons)

    assert reasons() == ""
    assert "needs float16 or bfloat16, but the tensors are float32" in reasons(dtype="float32")
    assert "256 filters in registers, but there are 320" in reasons(K=320)
    assert "4096 channels, 24 filters and a window of 3x3 needs at least" in reasons(C=4096)
    assert "and a block has 232448" in reasons(C=4096)
    many = {"N": 2**15, "H": 256, "W": 256, "stride_h": 2, "stride_w": 2}  # a quarter as many of y
    assert reasons(**many) == "x has to be packed, and its 2147483648 pixels are above 2^31 - 1"
    assert reasons(**many, channels_last=True) == reasons(**many | {"N": 2**15 - 1}) == ""


def test_chosen_where_the_hidden_tensors_leave_the_cache() -> None:
    def chosen(batch: int, **problem: Any) -> str | None:
        sizes = {"C": 16, "hidden": 96, "K": 24, "H": 112, "W": 112, "R": 3, "S": 3, "stride_h": 2, "stride_w": 2}
        pads = {"pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1, "dtype": "bfloat16"}
        fields: dict[str, Any] = {"N": batch, **sizes, **pads, **problem}
        return introspection.explain("inverted_residual", backend="cuda_emulated", **fields).chosen

    assert chosen(32) == "fused_mma"
    small = {"C": 160, "hidden": 960, "K": 160, "H": 7, "W": 7, "stride_h": 1, "stride_w": 1}
    assert chosen(1, **small) == "parts"
    assert chosen(32, dtype="float32") == "parts"


@pytest.mark.parametrize("allowed", [True, False])
def test_parts_are_told_whether_tf32_is_allowed(allowed: bool) -> None:
    client = ctypes.CDLL(str(build_client()))
    told = [client.client_parts_in_tf32(expands, allowed) for expands in (True, False)]
    assert told == ([3, 2] if allowed else [0, 0])


def test_the_functions_call_the_blocks_operators() -> None:
    """In half precision, unasked; in float32, where only conv2d knows whether torch allows tf32, those of its parts."""
    called: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
            called.append(function.name().removeprefix("fastconv::"))
            return function(*arguments, **(options or {}))

    block = BLOCKS["ragged"]
    for dtype, names in ((HALF, ["inverted_residual"]), (torch.float32, ["conv2d"] * 3)):
        called.clear()
        x, stages = block.input(dtype, True), block.stages(dtype, True)
        with Watch():
            y = run(x, stages, block.options, algo=None)
        assert [name for name in called if not name.startswith("aten::")] == names
        torch.testing.assert_close(y, expected(x, stages, block.options).to(dtype), rtol=0, atol=0, check_stride=False)
