"""Plans of CUDA kernels, in the emulator: what a GPU's plan does but for the graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from planning import BUILDERS, assert_equal, build, leaves, plan_of, step_by_step
from threads import at_once
from torch import Tensor, nn

import fastconv
from fastconv import _C
from fastconv.convert.plan.target import Target

pytestmark = pytest.mark.skipif(
    fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
)
SHAPES = ((2, 3, 12, 12), (1, 3, 9, 14))
# Step by step torch takes their means, which a plan takes with our kernels.
MEANS = ("dense", "growing", "gated", "part_left")


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    with fastconv.backend("cuda_emulated"), torch.no_grad():
        yield


def assert_like(ours: object, theirs: object, name: str) -> None:
    if name not in MEANS:
        assert_equal(ours, theirs)
        return
    for y, z in zip(leaves(ours), leaves(theirs), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
        torch.testing.assert_close(y, z, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", BUILDERS)
def test_the_bits_of_step_by_step(name: str, layout: torch.memory_format) -> None:
    model = build(name)
    converted, steps = fastconv.convert(model), step_by_step(model)
    for shape in SHAPES:
        x = torch.randn(shape).contiguous(memory_format=layout)
        expected, first = steps(x), converted(x)
        assert_like(first, expected, name)
        assert_equal(converted(x), first)
        plan = plan_of(converted)
        assert plan.kernel_count > 0
        assert bool(plan.left) == (name == "part_left")
        assert all(run.target.backend == "cuda_emulated" for run in plan.runs)
        for y, z in zip(leaves(expected), leaves(model(x)), strict=True):
            torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["inception", "shuffle", "mobile"])
def test_narrow_types(name: str, dtype: torch.dtype) -> None:
    """Tensor cores read whole chunks of 16 bytes: what lies in a part of a concatenation may not."""
    model = build(name)
    converted, steps = fastconv.convert(model, dtype=dtype), fastconv.convert(model, dtype=dtype)
    steps.region.store.plans_allowed = False
    x = torch.randn(SHAPES[0])
    expected = steps(x)
    for _ in range(2):
        assert_equal(converted(x), expected)
    assert plan_of(converted).kernel_count > 0


def test_weights_live_as_long_as_the_plan() -> None:
    """The CPU's plans read packed ones and let go of the others; these read the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 6 * 6, 200)).eval()
    converted, steps = fastconv.convert(model, dtype=torch.bfloat16), fastconv.convert(model, dtype=torch.bfloat16)
    steps.region.store.plans_allowed = False
    x = torch.randn(1, 3, 8, 8)
    expected = steps(x)
    for _ in range(3):
        assert_equal(converted(x), expected)
        with fastconv.backend("cpu"):
            converted(x)
        noise = [torch.randn(64 * 6 * 6 * 100) for _ in range(8)]  # in memory that was freed
    assert len(noise) == 8
    assert converted.memory().plans == 2


def test_kernels_are_those_of_the_gpu() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 1)).eval()
    converted = fastconv.convert(model, dtype=torch.bfloat16)
    x = torch.randn(1, 16, 8, 8)
    converted(x)
    rows = {name for name, _ in _C.algorithms("conv2d", "cuda_emulated")}
    kernels = [kernel for run in plan_of(converted).runs for kernel in run.plan.kernels]
    convolutions = [algorithm for op, algorithm in kernels if op == "conv2d"]
    assert len(convolutions) == 2
    assert set(convolutions) <= rows
    with fastconv.backend("cpu"):  # the same network, planned for the CPU beside it
        y = converted(x)
        assert all(run.target.on_host for run in plan_of(converted).runs)
    torch.testing.assert_close(converted(x), y, rtol=5e-2, atol=5e-2)


def test_another_architecture_has_a_plan_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Conv2d(16, 16, 3, padding=1).eval()
    converted = fastconv.convert(model, dtype=torch.bfloat16)
    x = torch.randn(1, 16, 16, 16)
    kernels = []
    for architecture in ("90", "75"):
        monkeypatch.setenv("FASTCONV_EMULATED_ARCH", architecture)
        for _ in range(2):
            torch.testing.assert_close(converted(x).float(), model(x), rtol=5e-2, atol=5e-2)
        kernels.append([name for op, name in plan_of(converted).runs[0].plan.kernels if op == "conv2d"])
    assert kernels[0] != kernels[1]


def test_a_misaligned_input_has_a_plan_of_its_own() -> None:
    model = nn.Conv2d(16, 16, 3, padding=1).to(memory_format=torch.channels_last).to(torch.bfloat16).eval()
    converted, steps = fastconv.convert(model), step_by_step(model)
    memory = torch.randn(8 * 8 * 16 + 1).to(torch.bfloat16)
    for offset in (0, 1, 0):
        x = memory.as_strided((1, 16, 8, 8), (8 * 8 * 16, 1, 8 * 16, 16), offset)
        assert_equal(converted(x), steps(x))
    assert converted.memory().plans == 2


def test_concatenations_copy_nothing_where_parts_are_aligned() -> None:
    x = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for name, copies in (("dense", 0), ("growing", 0), ("inception", 0)):
        converted = fastconv.convert(build(name), x)
        kernels = [op for run in plan_of(converted).runs for op, _ in run.plan.kernels]
        assert kernels.count("copy") == copies, name


class Odd(nn.Module):
    """Parts of 12 channels: 24 bytes of bfloat16, so that the second begins in the middle of a chunk."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(28, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), self.b(x)], 1))


def test_parts_that_would_lose_their_alignment_are_copied() -> None:
    model = Odd().to(torch.bfloat16).eval()
    x = torch.randn(1, 8, 8, 8).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    converted = fastconv.convert(model, x)
    assert "copy" in [op for run in plan_of(converted).runs for op, _ in run.plan.kernels]
    assert_equal(converted(x), step_by_step(model)(x))


def test_what_an_algorithm_does_not_take_where_it_was_put_is_put_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: list[str] = []

    def refusal(target: Target, plan: _C.Plan) -> str:
        refusals.append(plan.refusal())
        return "conv2d (row): not there" if len(refusals) == 1 else ""

    monkeypatch.setattr(Target, "refusal", refusal)
    model = build("inception")
    x = torch.randn(SHAPES[0]).contiguous(memory_format=torch.channels_last)
    converted = fastconv.convert(model)
    expected = step_by_step(model)(x)
    for _ in range(2):
        assert_equal(converted(x), expected)
    plan = plan_of(converted)
    assert refusals == ["", ""]
    assert [op for run in plan.runs for op, _ in run.plan.kernels].count("copy") == 3


def test_changed_weights() -> None:
    model = build("dense")
    converted = fastconv.convert(model)
    x = torch.randn(SHAPES[0])
    for change in (
        lambda: None,
        lambda: model.stem.weight.mul_(2),
        lambda: model.last.running_mean.add_(3),  # read by a kernel, not folded
        lambda: model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()}),
    ):
        change()
        for _ in range(2):
            torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)


def test_threads_at_once() -> None:
    converted = fastconv.convert(build("gated"))
    inputs = [torch.randn(shape) for shape in SHAPES]
    expected = [converted(x) for x in inputs]

    def work(thread: int) -> None:
        with fastconv.backend("cuda_emulated"), torch.no_grad():
            for i in range(4):
                which = (thread + i) % len(inputs)
                assert torch.equal(converted(inputs[which]), expected[which]), (thread, i)

    at_once(work, 4)


def test_scratch_is_found_out_at_the_first_run() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 32, 3)).eval()  # NCHW filters are packed at each call
    converted = fastconv.convert(model, dtype=torch.bfloat16)
    x = torch.randn(1, 64, 10, 10)
    first = converted(x)
    assert_equal(converted(x), first)
    plan = plan_of(converted).runs[0].plan
    known = plan.scratch_bytes
    assert known > 0
    assert known % 256 == 0
    assert plan.arena_bytes == 50 * 256 + 32 * 256  # 12800 bytes and 8192
    assert_equal(converted(x), first)
    assert plan.scratch_bytes == known


def test_explained() -> None:
    converted = fastconv.convert(build("mobile"), torch.randn(SHAPES[0]))
    text = str(fastconv.explain(converted))
    assert "plan: " in text
    assert "no CUDA graph: the emulated GPU has no graphs" in text
    assert converted.memory().plans == 1


def test_a_call_of_another_backend_makes_a_recording_useless() -> None:
    recorder = Target("cuda_emulated", torch.device("cpu")).recorder()
    with fastconv.backend("cpu"):
        recorder.begin()
        fastconv.functional.relu(torch.ones(4))
        assert recorder.end([], [], -1) == ([], "activation runs on backend cpu")


def test_blocks_are_one_kernel_where_that_is_preferred() -> None:
    def widened(channels: int, hidden: int, filters: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden), nn.ReLU6(),
            nn.Conv2d(hidden, filters, 1),
        )  # fmt: skip

    model = nn.Sequential(widened(8, 48, 16, 2), widened(16, 32, 8, 1)).eval()
    converted, steps = fastconv.convert(model, dtype=torch.bfloat16), fastconv.convert(model, dtype=torch.bfloat16)
    steps.region.store.plans_allowed = False
    x = torch.randn(2, 8, 10, 9)
    y = converted(x)
    kernels = [kernel for run in plan_of(converted).runs for kernel in run.plan.kernels]
    assert kernels.count(("inverted_residual", "fused_mma")) == 2 and plan_of(converted).fused == 2
    torch.testing.assert_close(y, steps(x), rtol=2e-2, atol=2e-2)
    assert_equal(converted(x), y)
