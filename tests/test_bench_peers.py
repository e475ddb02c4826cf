"""Peers beside torch: their settings, that they compute the network, what happens to one that cannot, and scaling."""

import json
import sys

import pytest
import torch
from torch import nn

from fastconv.bench import memory, network_runner, peers, runner, scaling, suites, timing
from fastconv.bench.networks import Network
from fastconv.bench.operations import OneCall, Workload, make_operands, torch_call
from fastconv.bench.problem import parse_problem
from fastconv.cli.main import main

SHORT = timing.Effort(seconds=0.0, min_rounds=2, max_rounds=2)
SMALL = Workload("conv2d", parse_problem("conv2d", "ic8ih9oc8kh3ph1"), act="relu", group="small", name="layer")


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.first, self.second = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(x)
        return self.first(x), self.second(x)


TINY = Network("tiny", "Tiny", TwoHeads, image_size=12)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(timing, "_POOL_PAUSE", 1e-6)


def settings(*names, **more):
    return runner.Settings(effort=SHORT, peers=("torch", *names), **more)


def fake(monkeypatch, **calls):
    """Stands in for engines that are not installed: the network in torch, changed by a function."""

    def prepare(name, model, x, dtype, onnx_file):
        return lambda: calls[name](model(x))

    monkeypatch.setattr(peers, "prepare", prepare)


@pytest.mark.parametrize("name", peers.ENGINES)
def test_an_engine_computes_all_outputs(name, tmp_path):
    for package in peers.PEERS[name].packages:
        pytest.importorskip(package)
    model, x = TINY.build(), torch.randn(2, 3, 12, 12)
    outputs = peers.prepare(name, model, x, "float32", tmp_path / "network.onnx")()
    for y, expected in zip(outputs, model(x), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_openvino_computes_in_the_precision_that_rows_say():
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for dtype, kind in (("float32", openvino.Type.f32), ("bfloat16", openvino.Type.bf16)):
        for name, value in peers.openvino_settings(dtype, 1).items():
            core.set_property("CPU", {name: value})
        assert core.get_property("CPU", "INFERENCE_PRECISION_HINT") == kind
        assert core.get_property("CPU", "INFERENCE_NUM_THREADS") == 1


def test_rivals_are_compared_within_rounds(monkeypatch):
    fake(monkeypatch, onnxruntime=lambda y: y, openvino=lambda y: y)
    rows, _ = network_runner.measure_network(TINY, 1, settings("onnxruntime", "openvino"))
    assert [row.backend for row in rows] == ["torch", "cpu", "torch", "cpu", "onnxruntime", "openvino"]
    assert all(row.correct for row in rows)
    for row in rows:
        assert row.is_ours == (row.backend == "cpu") == bool(row.ratios)
        if row.is_ours:
            assert set(row.ratios) == {"torch nchw", "torch nhwc", "onnxruntime", "openvino"}
            assert row.engine_speedup == min(row.ratios["onnxruntime"], row.ratios["openvino"])


def test_a_wrong_second_output_is_reported(monkeypatch):
    fake(monkeypatch, onnxruntime=lambda y: (y[0], y[1] * 1.01), openvino=lambda y: y[0])
    rows, _ = network_runner.measure_network(TINY, 1, settings("onnxruntime", "openvino"))
    notes = {row.backend: row.note for row in rows if row.correct is False}
    assert "wrong: off by" in notes["onnxruntime"] and "1 outputs, expected 2" in notes["openvino"]
    assert all(row.median_ms is None for row in rows if row.correct is False)
    assert all(row.engine_speedup is None for row in rows)


def test_a_peer_that_cannot_run_a_model_does_not_stop_the_others(monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("no such\n operator")

    monkeypatch.setattr(peers, "_inductor", broken)
    (row,) = [row for row in runner.measure(SMALL, settings("inductor")) if row.backend == "inductor"]
    assert (row.correct, row.median_ms, row.note) == (None, None, "RuntimeError: no such operator")
    rows, _ = network_runner.measure_network(TINY, 1, settings("inductor"))
    assert [(row.backend, row.note) for row in rows if row.median_ms is None] == [
        ("inductor", "RuntimeError: no such operator")
    ]
    with pytest.raises(NotImplementedError, match="onnxruntime computes no bfloat16"):
        peers.prepare("onnxruntime", nn.Identity(), torch.zeros(1), "bfloat16", tmp_path / "a.onnx")()


def test_bfloat16_rows_stand_beside_our_float32():
    run = suites.run_networks([], [], settings(dtype="bfloat16"), lambda *_: None)
    assert run.suite == "networks-bfloat16"
    rows, _ = network_runner.measure_network(TINY, 1, settings(dtype="bfloat16"))
    assert {row.backend for row in rows} == {"torch", "cpu", "fastconv float32"} and all(row.correct for row in rows)
    ours = [row for row in rows if row.is_ours]
    assert len(ours) == 2 and all(row.ratios["fastconv float32"] > 0 for row in ours)
    with pytest.raises(ValueError, match="expected dtype to be one of float32, bfloat16 for networks"):
        network_runner.measure_network(TINY, 1, settings(dtype="float16"))


def test_layers_take_the_type_that_was_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(suites.workloads, "layer_suite", lambda quick: [SMALL])
    monkeypatch.setattr(suites, "measure", lambda workload, _: seen.append(workload.dtype) or [])
    run = suites.run_suite("layers", settings(dtype="bfloat16"), False, lambda *_: None)
    assert (run.suite, seen) == ("layers-bfloat16", ["bfloat16"])


def test_a_layer_as_a_network():
    for op, text in (("conv2d", "ic8ih9oc8kh3ph1"), ("max_pool2d", "ic8ih9kh3"), ("gemm", "m3k4n5")):
        workload = Workload(op, parse_problem(op, text))
        operands = make_operands(workload)
        assert torch.equal(OneCall(workload, operands)(operands.x), torch_call(workload, operands)())


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("ic64ih9oc64kh3ph1", "3x3 stride 1"),
        ("ic32ih9oc64kh3ph1", "3x3 stride 1, few channels"),
        ("ic64ih9oc64kh3sh2ph1", "3x3 stride 2"),
        ("g32ic64ih9oc64kh3ph1", "grouped 3x3"),
        ("g64ic64ih9oc64kh3ph1", "depthwise"),
        ("ic64ih9oc64kh1", "1x1"),
        ("ic3ih9oc64kh7ph3", "stem"),
    ],
)
def test_kinds_of_layers(problem, kind):
    assert Workload("conv2d", parse_problem("conv2d", problem)).kind() == kind


def test_missing_peers_are_named_and_left_out(monkeypatch, tmp_path, capsys):
    lacking = {"openvino": ["openvino"], "torch": []}
    monkeypatch.setattr("fastconv.cli.bench.missing_packages", lacking.__getitem__)
    command = ["bench", "conv2d", "ic8ih9oc8kh3ph1", "--quick", "--peers", "torch,openvino", "--output", str(tmp_path)]
    assert main(command) == 0
    assert "without openvino, which needs openvino: pip install openvino" in capsys.readouterr().out
    document = json.loads((tmp_path / "conv2d.json").read_text())
    assert document["settings"]["peers"] == ["torch"] and document["settings"]["missing_peers"] == ["openvino"]


def test_scaling_is_one_threads_time_over_alls(monkeypatch):
    fake(monkeypatch, openvino=lambda y: y)
    before = torch.get_num_threads()
    rows = scaling.measure_scaling(TINY, 1, settings("openvino"))
    assert [(row.backend, row.group) for row in rows[:2]] == [
        ("cpu", "1 thread"), ("cpu", f"{before} thread{'s' if before > 1 else ''}")
    ]  # fmt: skip
    assert [row.backend for row in rows[::2]] == ["cpu", "torch", "openvino"]
    assert all((row.scaling is None) == (index % 2 == 0) for index, row in enumerate(rows))
    assert [set(row.ratios) for row in rows[:2]] == [{"torch nhwc", "openvino"}] * 2 and rows[0].engine_speedup
    assert all(row.correct and row.median_ms > 0 for row in rows) and torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_network_in_a_process_of_its_own():
    job = {"engine": "fastconv", "network": "mobilenet", "shape": [1, 3, 64, 64], "dtype": "float32", "threads": 1}
    measured = memory.memory_of(job)
    assert 4 * 4.2 < measured["peak_mib"] < 300 and measured["resident_mib"] > 4 * 4.2  # 4.2 M weights
    assert all(measured[name] > 0 for name in ("prepare_s", "first_ms", "later_ms", "baseline_mib", "arena_mib"))
    assert 0.95 * 4 * 4.2 < measured["weights_mib"] < 1.3 * 4 * 4.2 and measured["folded_mib"] >= 0  # packed once


def test_a_process_that_fails_says_why(monkeypatch, tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("raise MemoryError('too large')")
    monkeypatch.setattr(memory, "_PROBE", script)
    with pytest.raises(RuntimeError, match="openvino: MemoryError: too large"):
        memory.memory_of({"engine": "openvino"})
