"""The `fastconv` command: help, exit codes, messages, JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import machine
from fastconv.bench import runner
from fastconv.bench.operations import torch_call
from fastconv.bench.results import Row
from fastconv.cli import console
from fastconv.cli.main import main

TINY = "mb1ic8ih9oc8kh3ph1"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `fastconv ARGUMENTS`."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's way of ending
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", ["info", "verify", "bench", "profile", "demo"])
def test_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and out.startswith(f"usage: fastconv {command}")
    assert command in run(capsys, "--help")[1]


def test_no_command_shows_the_help(capsys):
    code, out, _ = run(capsys)
    assert code == 2 and "usage: fastconv" in out


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "fastconv", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"fastconv {fastconv.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["bench"], "expected OP PROBLEM, a network or --suite NAME"),
        (["bench", "conv3d", TINY], "OP: expected one of conv2d, upsample_conv2d, conv_transpose2d, gemm"),
        (["bench", "conv2d"], "conv2d needs a PROBLEM such as"),
        (["bench", "conv2d", "nonsense"], "problem: expected keys of g, mb, ic"),
        (["bench", "conv2d", "mb1ic8ih9"], "problem: expected oc, kh to be given"),
        (["bench", "conv2d", TINY, "--dtype", "int8"], "dtype to be one of float32, float64, float16, bfloat16"),
        (["bench", "conv2d", TINY, "--act", "mish"], "act to be one of identity, relu"),
        (["bench", "conv2d", TINY, "--algo", "magic"], "algo: expected one of "),
        (["bench", "conv2d", TINY, "--layout", "nc8hw"], "layout: expected one of nchw, nhwc, all"),
        (["bench", "conv2d", TINY, "--backend", "tpu"], "backend: expected one of cpu, cuda"),
        (["bench", "conv2d", TINY, "--peers", "torch,tvm"], "peer: expected one of torch, inductor, onnx"),
        (["bench", "conv2d", TINY, "--threads", "0"], "expected an integer of at least 1, but got '0'"),
        (["bench", "max_pool2d", "mb1ic8ih9kh3", "--act", "relu"], "no fused epilogue"),
        (["bench", "--suite", "everything"], "suite: expected one of layers, ops, networks"),
        (["bench", "conv2d", TINY, "--suite", "layers"], "expected either OP PROBLEM or --suite"),
        (["bench", "--suite", "layers", "--algo", "all"], "--algo goes with one operation"),
        (["profile", "vgg"], "network: expected one of efficientnet_lite0, mobilenet"),
        (["profile", "no_such_module:net"], "cannot load 'no_such_module:net'"),
        (["profile", "math:no_such_name"], "cannot load 'math:no_such_name'"),
        (["profile", "builtins:dict"], "gave a dict, expected a torch.nn.Module"),
        (["demo", "--image", "no/such/file.jpg"], "image file not found: no/such/file.jpg"),
        (["demo", "--image", "."], "not an image file"),
        (["demo", "--backend", "tpu"], "backend: expected one of cpu, cuda"),
    ],
)
def test_bad_arguments_end_with_2_and_one_clear_line(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    lines = err.strip().splitlines()
    assert message in lines[-1] and "Traceback" not in err
    if not err.startswith("usage:"):
        assert len(lines) == 1 and lines[0].startswith(f"fastconv {arguments[0]}: error: ")


def test_damaged_image(capsys, tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "damaged.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    code, out, err = run(capsys, "demo", "--image", str(path), "--output", str(tmp_path / "out"))
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"cannot read {path} as an image" in err
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file(capsys, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, _, err = run(capsys, "bench", "conv2d", TINY, "--quick", "--output", str(tmp_path / "taken"))
    assert code == 1 and "cannot create the folder" in err and err.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_unavailable_backend_says_why(capsys, monkeypatch):
    from fastconv.cli import common

    monkeypatch.setattr(common, "backend_states", lambda: {**dict.fromkeys(common.BACKENDS), "cuda": "no GPU found"})
    code, _, err = run(capsys, "bench", "conv2d", TINY, "--backend", "cuda")
    assert code == 1 and "backend cuda is not available: no GPU found" in err


def test_info(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and "available" in out and "torch" in out
    code, out, _ = run(capsys, "info", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["backends"]["cpu"] is None and facts["threads"] >= 1
    assert set(facts["backends"]) == {"cpu", "cuda", "triton", "cuda_emulated", "triton_interpreted", "reference"}
    assert all(reason is None or (reason and "\n" not in reason) for reason in facts["backends"].values())


def test_bench_of_one_kernel_writes_its_json(capsys, tmp_path):
    command = ["bench", "conv2d", TINY, "--act", "relu", "--algo", "all", "--quick", "--output", str(tmp_path)]
    code, out, _ = run(capsys, *command)
    assert code == 0
    document = json.loads((tmp_path / "conv2d.json").read_text())
    assert document["schema"] == 1 and document["suite"] == "conv2d"
    names = {getattr(entry, "name", entry) for entry in fastconv.algorithms("conv2d")}
    assert {row["algorithm"] for row in document["rows"]} == {"eager", *names}
    expected = set(Row.__dataclass_fields__)
    for row in document["rows"]:
        assert set(row) == expected
        assert (row["op"], row["dtype"], row["act"]) == ("conv2d", "float32", "relu")
        assert row["median_ms"] is not None or row["note"]
        assert row["problem"] == "mb1ic8ih9oc8oh9kh3ph1" and row["problem"] in out


def test_bench_without_output_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "bench", "gemm", "m8k9n10", "--quick")
    assert code == 0 and "m8k9n10" in out
    assert list(tmp_path.iterdir()) == []


def test_suite_outside_a_checkout_writes_here(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = run(capsys, "bench", "--suite", "ops", "--quick")
    assert code == 0
    assert json.loads((tmp_path / "fastconv-results" / "ops.json").read_text())["summary"]


def test_a_wrong_kernel_fails_the_command(capsys, monkeypatch):
    monkeypatch.setattr(runner, "our_call", lambda w, o, algo: lambda: torch_call(w, o)() * 1.01)
    code, out, _ = run(capsys, "bench", "conv2d", TINY, "--quick")
    assert code == 1 and "WRONG: conv2d" in out


def test_bench_runs_without_the_measuring_loops(capsys, monkeypatch):
    def unavailable(*_):
        raise machine.MeasurementUnavailable("measure_fma_gflops: not built")

    monkeypatch.setattr(machine, "fma_peak_gflops", unavailable)
    code, out, _ = run(capsys, "bench", "gemm", "m8k9n10", "--quick")
    assert code == 0 and "ceilings: measure_fma_gflops: not built" in out


def test_threads_are_restored(capsys):
    import torch

    before = torch.get_num_threads()
    assert run(capsys, "bench", "gemm", "m8k9n10", "--quick", "--threads", "1")[0] == 0
    assert torch.get_num_threads() == before


def test_profile(capsys, tmp_path):
    (tmp_path / "net.py").write_text("import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3)\n")
    command = [sys.executable, "-m", "fastconv", "profile", "net:make", "--size", "16", "--json", "out/p.json"]
    package = str(Path(fastconv.__file__).parents[1])  # an in-place build is importable from its checkout only
    environment = {**os.environ, "PYTHONPATH": package}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "14" in done.stdout  # the output's height
    assert json.loads((tmp_path / "out" / "p.json").read_text())


def test_bugs_keep_their_traceback(monkeypatch):
    from fastconv.cli import info

    def broken():
        raise TypeError("a bug")

    monkeypatch.setattr(info, "collect", broken)
    with pytest.raises(TypeError, match="a bug"):
        main(["info"])


def test_plain_table_is_aligned(capsys):
    console.Console(force_plain=True).table(("name", "ms"), [("a", "1.0"), ("longer", "10.25")])
    assert capsys.readouterr().out == "name       ms\na         1.0\nlonger  10.25\n\n"


def test_machine_slug_is_a_folder_name(monkeypatch):
    monkeypatch.setattr(machine, "cpu_name", lambda: "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz")
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine, "gpu_names", list)
    assert machine.slug() == "intel-xeon-e5-2680-v4-2-cores"
