"""make gpu-check: what it runs, in which order, and what it writes; the GPU itself is not needed for that."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from buildtools import gpu_check


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        gpu_check.gpu_name()


def test_steps_come_in_the_order_of_their_worth(tmp_path: Path) -> None:
    names = [step.name for step in gpu_check.steps(tmp_path, 16)]
    assert names == [
        "build",
        "verify cuda",
        "gpu tests",
        "verify triton",
        *gpu_check.SANITIZERS,
        "bench",
        "networks",
        "tests",
    ]


def python(name: str, code: str) -> gpu_check.Step:
    return gpu_check.Step(name, [sys.executable, "-c", code])


def test_the_record_holds_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [python("build", "print('built')"), python("fails", "raise SystemExit(3)"), python("bench", "print(1)")]
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "h200")
    monkeypatch.setattr(gpu_check, "steps", lambda folder, cores: planned)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert gpu_check.main() == 1
    (path,) = tmp_path.glob("*-gpu-check.json")
    steps = json.loads(path.read_text())["steps"]
    assert [(step["name"], step["code"]) for step in steps] == [("build", 0), ("fails", 3), ("bench", 0)]
    assert steps[0]["tail"] == "built"


def test_a_missing_tool_is_a_failed_step() -> None:
    step = gpu_check.Step("memcheck", ["no-such-sanitizer"])
    gpu_check.run(step, 5.0, {})
    assert step.code == 127 and "no-such-sanitizer" in step.tail


def test_a_failed_build_ends_it_and_a_slow_step_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = python("slow", "import time; print('begun', flush=True); time.sleep(600)")
    gpu_check.run(slow, 3.0, {})
    assert slow.code == 124
    planned = [python("build", "raise SystemExit(1)"), python("bench", "print(1)")]
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "h200")
    monkeypatch.setattr(gpu_check, "steps", lambda folder, cores: planned)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert gpu_check.main() == 1 and planned[1].code is None
