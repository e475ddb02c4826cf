"""The microbenchmark: problem strings, workloads, timing, results and reports."""

import math

import pytest
import torch
import torch.nn.functional as torch_f
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.bench import memory, runner, suites, timing, workloads
from fastconv.bench.operations import OPS, Workload, check, make_operands, our_call, torch_call
from fastconv.bench.problem import GemmProblem, WindowProblem, parse_problem
from fastconv.bench.results import Run
from fastconv.bench.truth import Truth, max_error

QUICK = runner.Settings(effort=timing.Effort(seconds=0.0, min_rounds=2, max_rounds=2))


# ---- problem strings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "text", "full"),
    [
        ("conv2d", "mb8ic64ih56oc64oh56kh3ph1", "mb8ic64ih56oc64oh56kh3ph1"),
        ("conv2d", "ic3ih224oc64kh7sh2ph3", "mb1ic3ih224oc64oh112kh7sh2ph3"),
        ("conv2d", "kh3oh56oc64ih56ic64", "mb1ic64ih56oc64oh56kh3ph1"),  # any order, padding inferred
        ("conv2d", "g32mb1ic32ih112oc32oh56kh3sh2ph1", "g32mb1ic32ih112oc32oh56kh3sh2ph1"),
        ("conv2d", "mb1ic4ih20iw30oc8kh3kw5ph1pw2dh1dw0", "mb1ic4ih20iw30oc8oh18ow30kh3kw5ph1pw2dh1dw0"),
        ("upsample_conv2d", "ic8ih14oc4kh3ph1", "mb1ic8ih14oc4oh28kh3ph1uh2"),
        ("conv_transpose2d", "ic8ih14oc4kh4sh2ph1", "mb1ic8ih14oc4oh28kh4sh2ph1"),
        ("conv_transpose2d", "ic8ih14oc4oh28kh4sh2", "mb1ic8ih14oc4oh28kh4sh2ph1"),
        ("max_pool2d", "mb2ic64ih112kh3sh2ph1", "mb2ic64ih112oc64oh56kh3sh2ph1"),
        ("gemm", "m512k256n128", "m512k256n128"),
        ("gemm", "b4m5k6n7", "b4m5k6n7"),
    ],
)
def test_problem_strings_are_completed(op, text, full):
    assert str(parse_problem(op, text)) == full
    assert parse_problem(op, full) == parse_problem(op, text)


@pytest.mark.parametrize(
    ("op", "text", "message"),
    [
        ("conv2d", "", "expected keys of g, mb"),
        ("conv2d", "mb1xx3", "expected keys of g, mb"),
        ("conv2d", "mb1ic3ih8oc4kh3 ", "expected keys of g, mb"),
        ("conv2d", "mb1ic3ih8", "expected oc, kh to be given"),
        ("conv2d", "ic3ic4ih8oc4kh3", "got 'ic' twice"),
        ("conv2d", "ic3ih8oc4kh3sh0", "expected sh to be at least 1"),
        ("conv2d", "g2ic3ih8oc4kh3", "multiples of g"),
        ("conv2d", "ic3ih2oc4kh3", "filter to fit"),
        ("conv2d", "ic3ih8oc4kh3ph1oh9", "expected oh to be 8, but got 9"),
        ("gemm", "m3k4", "expected n to be given"),
        ("gemm", "mb1ic3", "expected keys of b, m, k, n"),
    ],
)
def test_bad_problem_strings_say_what_was_expected(op, text, message):
    with pytest.raises(ValueError, match=message):
        parse_problem(op, text)


def test_work_of_a_known_layer():
    problem = WindowProblem.parse("mb1ic64ih56oc64oh56kh3ph1")
    assert problem.flops() == 2 * 56 * 56 * 64 * 64 * 9
    assert problem.bytes(4) == 4 * (2 * 64 * 56 * 56 + 64 * 64 * 9)
    assert GemmProblem(2, 3, 5).flops() == 60


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["conv2d", "conv_transpose2d", "upsample_conv2d", "max_pool2d", "avg_pool2d"]),
    st.integers(5, 12),
    st.integers(5, 12),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 1),
)
def test_output_sizes_are_torchs(op, height, width, kernel, stride, pad):
    pad = min(pad, kernel // 2)
    text = f"mb2ic4ih{height}iw{width}oc4kh{kernel}sh{stride}ph{pad}"
    workload = Workload(op, parse_problem(op, text))
    y = torch_call(workload, make_operands(workload))()
    assert tuple(y.shape) == (2, 4, *workload.problem.out_size)


# ---- workloads -----------------------------------------------------------------------------------------------------


def test_layer_suite_holds_the_promised_layers():
    resnet = workloads.resnet50_layers()
    assert len({str(layer.problem) for layer in resnet}) == 12
    mobilenet = workloads.mobilenet_layers()
    assert len({str(layer.problem) for layer in mobilenet}) == 19
    assert all(layer.act == "relu" and layer.bias and layer.problem.batch == 1 for layer in resnet + mobilenet)


@pytest.mark.parametrize("suite", ["layers", "ops"])
def test_every_workload_is_valid_and_named_once(suite):
    chosen = workloads.layer_suite() if suite == "layers" else workloads.operation_suite()
    for workload in chosen:
        check(workload)
        assert parse_problem(workload.op, str(workload.problem)) == workload.problem
    assert len({(w.group, w.name) for w in chosen}) == len(chosen)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_our_call_computes_what_torch_computes(op, dtype):
    text = "m33k17n20" if op == "gemm" else "mb2ic8ih10iw9oc8kh3ph1"
    epilogue = {} if op.endswith(("pool2d", "transpose2d", "grad")) else {"act": "prelu", "residual": True}
    workload = Workload(op, parse_problem(op, text), dtype=dtype, **epilogue)
    operands = make_operands(workload)
    truth = Truth.of(workload, operands)
    assert max_error(our_call(workload, operands)(), truth.reference) <= truth.tolerance


def test_truth_rejects_a_wrong_output():
    workload = Workload("conv2d", parse_problem("conv2d", "ic4ih8oc4kh3ph1"))
    truth = Truth.of(workload, make_operands(workload))
    wrong = truth.reference.clone()
    wrong[0, 0, 0, 0] += 1e-3
    assert max_error(wrong, truth.reference) > truth.tolerance
    assert max_error(wrong[:, :3], truth.reference) == math.inf
    wrong[0, 0, 0, 0] = math.nan
    assert max_error(wrong, truth.reference) == math.inf


# ---- timing --------------------------------------------------------------------------------------------------------


def test_contenders_are_timed_in_turn():
    calls = []
    contenders = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    effort = timing.Effort(seconds=0.0, min_rounds=4, max_rounds=4, cold_cache=True)  # cold: one call a sample
    measured = timing.interleave(contenders, effort)
    assert list(measured) == ["a", "b", "c"]
    assert all(t.rounds == 4 and t.q20 <= t.median <= t.q80 for t in measured.values())
    assert calls[-12:] == list("abcbcacababc")


def test_turns_are_blocks_where_engines_have_threads_of_their_own(monkeypatch):
    events = []
    contenders = {name: (lambda name=name: events.append(name)) for name in "ab"}
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: events.append(seconds))
    # Samples last as long as the clock says: a block of 0.03 s takes three.
    monkeypatch.setattr(timing, "_sample", lambda call, repeats, device: (call(), 0.01)[1])
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 0.0)
    effort = timing.Effort(seconds=0.0, min_rounds=2, max_rounds=2).for_own_threads()
    measured = timing.interleave(contenders, effort)
    pause = effort.pause
    assert pause >= 0.04  # what was measured of the slowest to sleep
    turns = [pause, *"aaaa", pause, *"bbbb", pause, *"bbbb", pause, *"aaaa"]
    assert events[-len(turns) :] == turns
    assert all(len(t.by_round) == t.rounds == 2 for t in measured.values())


def test_long_calls_make_a_block_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(timing, "_sample", lambda call, repeats, device: (call(), 0.5)[1])
    effort = timing.Effort(seconds=0.0, min_rounds=3, max_rounds=3).for_own_threads()
    timing.interleave({"a": lambda: calls.append(0)}, effort)
    warm_up = len(calls) - 3 * 2  # in each round one that is not measured, and one that is
    assert 2 <= warm_up <= 12


def test_quantiles():
    t = timing.Timing.from_rounds([[5.0, 1.0, 3.0], [2.0, 4.0]], repeats=2)
    assert (t.q20, t.median, t.q80, t.rounds, t.repeats) == (2.0, 3.0, 4.0, 2, 2)
    assert t.by_round == (3.0, 3.0)


def test_ratios_are_of_the_same_round():
    # A slow spell over the second round: the medians' ratio would be 6 / 2.
    a = timing.Timing.from_rounds([[2.0], [20.0], [6.0]], repeats=1)
    b = timing.Timing.from_rounds([[1.0], [10.0], [2.0]], repeats=1)
    assert a.over(b) == 2.0 and b.over(a) == 0.5


def test_extra_memory_sees_an_allocation():
    extra = memory.extra_memory_bytes(lambda: torch.ones(16 << 20, dtype=torch.float32))
    if extra is None:
        pytest.skip("this system cannot reset the high-water mark")
    assert 48 << 20 <= extra <= 96 << 20  # 64 MiB, allowing for what the heap already held
    assert memory.peak_rss_bytes() > extra


# ---- measuring -----------------------------------------------------------------------------------------------------

SMALL = Workload("conv2d", WindowProblem.parse("ic8ih9oc8kh3ph1"), act="relu", group="small", name="layer")


def test_rows_of_a_workload():
    rows = runner.measure(SMALL, QUICK)
    assert [(row.backend, row.layout) for row in rows] == [
        ("torch", "nchw"), ("torch", "nhwc"), ("cpu", "nchw"), ("cpu", "nhwc")
    ]  # fmt: skip
    for row in rows:
        assert row.correct and row.note == ""
        assert 0 < row.q20_ms <= row.median_ms <= row.q80_ms
        assert row.max_error <= row.tolerance
        assert row.gflops == pytest.approx(SMALL.flops() / row.median_ms / 1e6)
        assert (row.speedup is None) == (row.backend == "torch")
        assert row.peak_memory_mib > 1
    best = min(row.median_ms for row in rows if row.backend == "torch")
    assert rows[2].speedup == pytest.approx(best / rows[2].median_ms)


def test_a_wrong_kernel_is_reported_and_not_timed(monkeypatch):
    monkeypatch.setattr(runner, "our_call", lambda w, o, algo: lambda: torch_call(w, o)() + 0.01)
    rows = runner.measure(SMALL, QUICK)
    ours = [row for row in rows if row.is_ours]
    assert len(ours) == 2
    for row in ours:
        assert row.correct is False and row.median_ms is None and "wrong: off by" in row.note
    run = Run("small", {}, {}, rows)
    assert run.failures == ours and run.summary() == []


def test_a_kernel_that_goes_wrong_while_timed_is_reported(monkeypatch):
    def our_call(workload, operands, algo):
        right, count = torch_call(workload, operands), iter(range(10**9))
        return lambda: right() + (0.01 if next(count) > 2 else 0.0)

    monkeypatch.setattr(runner, "our_call", our_call)
    assert [row.correct for row in runner.measure(SMALL, QUICK) if row.is_ours] == [False, False]


def test_an_algorithm_that_refuses_leaves_its_reason(monkeypatch):
    def our_call(workload, operands, algo):
        def refuse():
            raise NotImplementedError("conv2d: no algorithm:\n depthwise needs groups == channels")

        return refuse

    monkeypatch.setattr(runner, "our_call", our_call)
    row = runner.measure(SMALL, QUICK)[-1]
    assert row.correct is None and row.note == "conv2d: no algorithm: depthwise needs groups == channels"


# ---- networks ------------------------------------------------------------------------------------------------------


def test_network_rows():
    rows = suites.run_networks(["mobilenet"], [1], QUICK, lambda *_: None).rows
    assert [row.backend for row in rows] == ["torch", "cpu", "torch", "cpu"]
    assert all(row.correct and row.median_ms > 0 for row in rows)


def test_upsample_truth_is_the_unfused_pair():
    workload = Workload("upsample_conv2d", parse_problem("upsample_conv2d", "ic3ih5oc2kh3ph1"))
    o = make_operands(workload)
    pair = torch_f.conv2d(torch_f.interpolate(o.x, scale_factor=2, mode="nearest"), o.weight, o.bias, padding=1)
    assert torch.equal(torch_call(workload, o)(), pair)


def test_weights_are_packed_once():
    layer = Workload("conv2d", WindowProblem.parse("ic256ih4oc256kh3ph1"), group="deep", name="layer")
    for row in runner.measure(layer, QUICK)[2:]:
        assert row.scratch_mib < 2  # packed weights alone take 2.25 MiB
