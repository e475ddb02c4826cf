"""The autotuner and its tables, on the CPU: what is measured, what is written, and when a table decides."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

import fastconv
from fastconv import autotuner, functional, tuning
from fastconv.bench.timing import Effort
from fastconv.cli.main import main
from fastconv.tuning import Entry

QUICK = Effort(seconds=0.0, min_rounds=1, max_rounds=1)
CONV = "mb1ic16ih20oc16oh20kh3ph1"


@pytest.fixture(autouse=True)
def no_table():
    """Whatever a test puts in force ends with it, and so do its warnings."""
    yield
    fastconv.use_tuning(None)
    tuning._warned.clear()


def entry(order, op="conv2d", problem=CONV, layout="nhwc", dtype="float32", **changes):
    """An entry of this machine whose times are in the order of `order`."""
    mine = {"device": tuning.device_name("cpu"), "version": fastconv.__version__, "threads": 1, **changes}
    times = {name: 1.5 + place for place, name in enumerate(order)}
    return Entry(op, problem, dtype, layout, backend="cpu", times_us=times, **mine)


def table(tmp_path, *entries):
    path = tmp_path / "tuning.json"
    tuning.write(path, entries)
    return path


def operands(layout):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 16, 20, 20, generator=generator), torch.randn(16, 16, 3, 3, generator=generator)
    return x.contiguous(memory_format=layout), w


def test_all_serving_rows_are_timed_and_written(tmp_path):
    path = tmp_path / "deep" / "t.json"
    (made,) = fastconv.autotune("conv2d", CONV, path=path, effort=QUICK)
    rows = fastconv.explain("conv2d", CONV, channels_last=True).candidates
    assert set(made.times_us) == {row.name for row in rows if not row.reasons} - {"winograd"}
    assert list(made.times_us.values()) == sorted(made.times_us.values())
    assert tuning.read(path) == [made] and os.listdir(path.parent) == ["t.json"]
    assert (made.device, made.version) == (tuning.device_name("cpu"), fastconv.__version__)
    # Nothing is chosen by it until somebody asks.
    assert fastconv.explain("conv2d", CONV, channels_last=True).decided_by == "model"


def test_a_table_is_sorted_has_a_line_for_each_problem_and_one_entry_of_each(tmp_path):
    other = entry(["direct"], problem="mb2ic16ih20oc16oh20kh3ph1")
    path = table(tmp_path, other, entry(["direct"]))
    tuning.write(path, [entry(["implicit_gemm"])])
    assert [found.problem for found in tuning.read(path)] == [CONV, other.problem]
    assert list(tuning.read(path)[0].times_us) == ["implicit_gemm"]
    assert sum('"op"' in line for line in path.read_text().splitlines()) == 2


def test_the_fastest_decides_and_explain_shows_both(tmp_path):
    path = table(tmp_path, entry(["direct", "implicit_gemm"]))
    before = fastconv.explain("conv2d", CONV, channels_last=True)
    with fastconv.use_tuning(path):
        found = fastconv.explain("conv2d", CONV, channels_last=True)
        assert (found.chosen, found.decided_by) == ("direct", "measurement")
        direct = next(row for row in found.candidates if row.name == "direct")
        assert direct.measured == pytest.approx(1.5e-6) and direct.cost > 0
        assert "conv2d on cpu: direct (by measurement)" in str(found) and "1.5 us measured" in str(found)
        # Another layout, type or batch is another problem.
        for change in ({"channels_last": False}, {"dtype": "float64"}, {"N": 2}):
            assert fastconv.explain("conv2d", CONV, **{"channels_last": True, **change}).decided_by == "model"
    assert fastconv.explain("conv2d", CONV, channels_last=True) == before


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("row", ["winograd_2x2", "winograd_4x4", "implicit_gemm", "direct", "im2col", "fft"])
def test_calls_run_what_the_table_says_with_its_packed_weights(tmp_path, row, layout):
    x, w = operands(torch.channels_last if layout == "nhwc" else torch.contiguous_format)
    problem, padding, other = CONV, 1, "implicit_gemm" if row.startswith("winograd") else "winograd_4x4"
    if row == "fft":
        w, problem, padding, other = torch.randn(16, 16, 5, 5), "mb1ic16ih20oc16oh16kh5", 0, "implicit_gemm"
    wanted, unwanted = (functional.conv2d(x, w, padding=padding, algo=name) for name in (row, other))
    assert not torch.equal(wanted, unwanted)
    for order, y in (([row, other], wanted), ([other, row], unwanted)):
        with fastconv.use_tuning(table(tmp_path / order[0], entry(order, problem=problem, layout=layout))):
            for _ in range(2):
                assert torch.equal(functional.conv2d(x, w, padding=padding), y)


def test_what_may_not_be_taken_unasked_is_passed_over(tmp_path):
    path = table(tmp_path, entry(["winograd_4x4", "im2col", "implicit_gemm"]))
    with fastconv.use_tuning(path):
        assert fastconv.explain("conv2d", CONV, channels_last=True).chosen == "winograd_4x4"
        with fastconv.allow_winograd(False):
            assert fastconv.explain("conv2d", CONV, channels_last=True).chosen == "im2col"


def test_a_converted_network_notices(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU()).eval()
    x = torch.randn(1, 16, 20, 20).contiguous(memory_format=torch.channels_last)
    converted = fastconv.convert(model, (x,))

    def kernels():
        converted(x)
        return [row.kernel for row in fastconv.explain(converted).rows]

    before, y = kernels(), converted(x)
    for row in ("winograd_2x2", "direct"):
        with fastconv.use_tuning(table(tmp_path, entry([row]))):
            assert kernels() == [row] != before
            weight, bias = model[0].weight, model[0].bias
            torch.testing.assert_close(converted(x), y)
            forced = functional.conv2d(x, weight, bias, padding=1, act="relu", algo=row)
            assert torch.equal(converted(x), forced.detach())
    assert kernels() == before and torch.equal(converted(x), y)


def test_entries_of_others_are_ignored_with_one_warning(tmp_path):
    path = table(tmp_path, entry(["direct"], device="another"), entry(["direct"], version="0.0.1"))
    with pytest.warns(UserWarning, match="2 of 2 entries .* another device or version than"):
        fastconv.use_tuning(path)
    assert fastconv.explain("conv2d", CONV, channels_last=True).decided_by == "model"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastconv.use_tuning(path)


def test_another_instruction_set_is_another_device(tmp_path):
    fastconv.use_tuning(table(tmp_path, entry(["direct"])))
    isa = fastconv.introspection.isa()
    other = next((name for name in fastconv.introspection.available_isas() if name != isa), None)
    if other is None:
        pytest.skip("one instruction set here")  # an arm64 has "scalar" alone: there is nothing to change to
    try:
        with pytest.warns(UserWarning, match="1 of 1 entries"):
            fastconv.introspection.select_isa(other)
        assert not tuning.in_use()
    finally:
        fastconv.introspection.select_isa(isa)
    assert tuning.in_use()


@pytest.mark.parametrize(
    ("op", "problem", "layout"),
    [
        ("upsample_conv2d", "mb1ic8ih6oc8kh3ph1uh2", "nchw"),
        ("conv_transpose2d", "mb1ic8ih6oc12kh3sh2ph1", "nhwc"),
        ("conv2d_input_grad", "mb1ic8ih9oc8kh3ph1", "nhwc"),
        ("conv2d_weight_grad", "mb2ic8ih9oc8kh3ph1", "nchw"),
        ("gemm", "m9k17n8", "nt"),
        ("gemm", "b2m9k17n8", "tn"),
    ],
)
def test_every_operator(tmp_path, op, problem, layout):
    (made,) = fastconv.autotune(op, problem, layout=layout, path=tmp_path / "t.json", effort=QUICK)
    assert made.times_us
    with fastconv.use_tuning(tmp_path / "t.json"):
        found = fastconv.explain(op, **made.fields())
        assert found.decided_by == "measurement" and found.chosen in made.times_us


def test_a_networks_problems_are_found(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
    ).eval()  # fmt: skip
    x = torch.randn(9, 3, 12, 12)
    wanted = {
        ("conv2d", "mb9ic3ih12oc8oh6kh3sh2ph1", "float32", "nchw", "cpu"),
        ("conv_transpose2d", "mb9ic8ih6oc4oh12kh2sh2ph0", "float32", "nchw", "cpu"),
        ("gemm", "m9k4n10", "float32", "nt", "cpu"),
    }
    assert set(autotuner.problems_of(fastconv.replace(model), x)) == wanted
    converted = fastconv.convert(model, (x,))
    converted(x)  # with a plan that is there already
    made = fastconv.autotune(converted, x, path=tmp_path / "t.json", effort=QUICK)
    assert {found[:2] for found in wanted} == {(e.op, e.problem) for e in made}


def test_emulated_time_says_nothing(tmp_path):
    with pytest.raises(NotImplementedError, match="cuda_emulated runs on the CPU: its time says nothing of a GPU"):
        fastconv.autotune("gemm", "m8k8n8", backend="cuda_emulated", path=tmp_path / "t.json")
    with pytest.raises(NotImplementedError, match="reference runs on the CPU"), fastconv.backend("reference"):
        fastconv.autotune(torch.nn.Identity(), torch.ones(1), path=tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("args", "options", "text"),
    [
        (("conv3d", CONV), {}, "expected op to be one of conv2d"),
        (("conv2d",), {}, "expected one problem such as"),
        (("conv2d", "mb1"), {}, "expected ic, ih, oc, kh to be given"),
        (("conv2d", CONV), {"layout": "nn"}, "expected layout to be one of nchw, nhwc"),
        (("gemm", "m1k1n1"), {"dtype": "int8"}, "expected dtype to be one of float32"),
        (("conv2d", CONV), {"backend": "tpu"}, "expected one of cpu, cuda"),
    ],
)
def test_bad_arguments(tmp_path, args, options, text):
    with pytest.raises(ValueError, match=text):
        fastconv.autotune(*args, path=tmp_path / "t.json", effort=QUICK, **options)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"entries": [{"op": "conv2d"}]}', '{"entries": [3]}', "missing"]
    + [json.dumps({"entries": [{**vars(entry(["direct"])), **change}]}) for change in (
        {"times_us": {"direct": -1.0}}, {"times_us": {"direct": "fast"}}, {"problem": "mb"}, {"layout": "chwn"},
        {"op": "conv3d"}, {"times_us": [1]},
    )],
)  # fmt: skip
def test_files_that_are_no_tables(tmp_path, text):
    path = tmp_path / "t.json"
    if text != "missing":
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a table"):
            fastconv.autotune("conv2d", CONV, path=path, effort=QUICK)
        assert path.read_text() == text
    with pytest.raises(ValueError, match="cannot read" if text == "missing" else "is not a table"):
        fastconv.use_tuning(path)


def run_python(code, **environment):
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    return process.returncode, process.stdout + process.stderr


def test_the_environment_names_a_table(tmp_path):
    code = f"import fastconv; print(fastconv.explain('conv2d', {CONV!r}, channels_last=True).chosen)"
    path = table(tmp_path, entry(["direct"]))
    assert run_python(code, FASTCONV_AUTOTUNE=str(path)) == (0, "direct\n")
    status, text = run_python(code, FASTCONV_AUTOTUNE=str(tmp_path / "none.json"))
    assert status == 1 and "cannot read" in text


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = str(tmp_path / "t.json")
    assert main(["autotune", "conv2d", CONV, "--quick", "--output", path]) == 0
    shown = capsys.readouterr().out
    assert "predicted to be fastest" in shown and "implicit_gemm" in shown and f"1 problems in {path}" in shown
    assert main(["autotune", "mobilenet_v2", "--size", "32", "--batch", "2", "--quick", "--dtype", "float32"]) == 0
    entries = tuning.read(tuning.default_path())
    assert {e.op for e in entries} == {"conv2d", "gemm"} and all("mb2" in e.problem or e.op == "gemm" for e in entries)
    for wrong in (
        ["conv2d"], ["lenet"], ["resnet18", CONV], ["gemm", "m8k8n8", "--backend", "cuda_emulated"],
        ["gemm", "m8k8n8", "--layout", "nhwc"], ["gemm", "m8k8n8", "--dtype", "int8"],
    ):  # fmt: skip
        assert main(["autotune", *wrong, "--output", path]) == 2
        assert "fastconv autotune: error: " in capsys.readouterr().err
