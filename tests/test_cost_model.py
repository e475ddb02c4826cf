"""Predicted costs, and the constants behind them: measured once, kept on disk, robust against what disks do."""

import json
import os
import subprocess
import sys

import pytest

import fastconv
from fastconv import _C, calibration

PROBLEMS = ["mb1ic64ih56oc64kh3ph1", "g32mb1ic128ih28oc128kh3ph1", "g8mb1ic8ih20oc8kh3ph1", "mb1ic1ih64oc3kh16ph8"]


@pytest.fixture
def constants():
    """Those in force, put back afterwards."""
    before, states = _C.cost_constants(), dict(calibration._states)
    yield before
    _C.set_cost_constants(before)
    calibration._states.clear()
    calibration._states.update(states)


@pytest.fixture
def file(monkeypatch, tmp_path, constants):
    path = tmp_path / "deep" / "calibration.json"
    monkeypatch.setenv("FASTCONV_CALIBRATION", str(path))
    calibration._states.clear()
    return path


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_cost_is_that_of_one_image(problem):
    one, many = fastconv.explain("conv2d", problem), fastconv.explain("conv2d", problem, N=16)
    assert [row.cost for row in one.candidates] == [row.cost for row in many.candidates]
    assert one.chosen == many.chosen
    assert all(row.cost > 0 for row in one.candidates if not row.reasons)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_cheapest_preferred_row_is_chosen(problem):
    found = fastconv.explain("conv2d", problem)
    able = [row for row in found.candidates if row.preferred]
    assert found.chosen == min(able, key=lambda row: row.cost).name
    assert "us predicted" in str(found)


def test_choices_follow_the_constants(constants):
    problem = "g64mb1ic64ih56oc64kh31ph15"
    assert fastconv.explain("conv2d", problem).chosen == "fft"
    # Memory so slow that spectra are not worth fetching.
    slow = {**constants, "memory_bandwidth": 1e6, "l3_bandwidth": 1e6}
    _C.set_cost_constants(slow)
    assert fastconv.explain("conv2d", problem).chosen == "depthwise"


def test_constants_have_to_be_known_and_positive(constants):
    with pytest.raises(ValueError, match="expected names out of"):
        _C.set_cost_constants({"speed": 1.0})
    with pytest.raises(ValueError, match="l2_bytes to be positive"):
        _C.set_cost_constants({"l2_bytes": 0.0})
    assert _C.cost_constants() == constants


def test_calibration_is_written_once_and_read_back(file):
    calibration.ensure()
    assert calibration.state() == f"measured now, written to {file}"
    measured = _C.cost_constants()
    written = file.read_text()
    calibration._states.clear()
    _C.set_cost_constants({})
    calibration.ensure()
    assert calibration.state() == f"measured earlier: {file}" and file.read_text() == written
    assert _C.cost_constants() == pytest.approx(measured)
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "",
        lambda found: json.dumps(found)[:40],
        lambda found: "[1, 2]",
        lambda found: json.dumps({**found, "machine": {"cpu": "another"}}),
        lambda found: json.dumps({**found, "constants": {**found["constants"], "l1_bytes": -1}}),
        lambda found: json.dumps({**found, "constants": {"l1_bytes": 1.0}}),
        lambda found: json.dumps({**found, "constants": {**found["constants"], "l1_bytes": float("nan")}}),
    ],
)
def test_a_damaged_or_foreign_file_is_replaced(file, damage):
    calibration.calibrate()
    file.write_text(damage(json.loads(file.read_text())))
    calibration._states.clear()
    assert not calibration.load()
    calibration.ensure()
    assert calibration.load()


def test_nowhere_to_write(monkeypatch, tmp_path, constants):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("FASTCONV_CALIBRATION", str(blocker / "calibration.json"))
    calibration._states.clear()
    calibration.ensure()
    assert calibration.state().startswith("measured now, kept in this process only")


def test_off(monkeypatch, constants):
    monkeypatch.setenv("FASTCONV_CALIBRATION", "off")
    calibration._states.clear()
    calibration.ensure()
    assert calibration.path() is None and calibration.state() == calibration.DEFAULTS


def test_processes_at_once(tmp_path):
    path = tmp_path / "calibration.json"
    code = "from fastconv import calibration as c; c.calibrate(); assert c.load(), c.state()"
    environment = {**os.environ, "FASTCONV_CALIBRATION": str(path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_info_shows_and_measures(file, capsys):
    from fastconv.cli.main import main

    assert main(["info", "--calibrate", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["cost_model"]
    assert shown["source"] == f"measured now, written to {file}" and shown["fma_per_second"] > 0
