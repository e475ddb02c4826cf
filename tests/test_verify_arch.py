"""`fastconv verify --backend cuda_emulated --arch`: which rows are Hopper's, schedules, rings, exit codes."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from fastconv import introspection
from fastconv.cli.main import main
from fastconv.verify import emulated_gpu, runner
from fastconv.verify.case import Case
from fastconv.verify.cases import cases_of, parse
from fastconv.verify.emulated_gpu import SCHEDULES, newest_rows, run_under_schedules, serves, verify_on
from fastconv.verify.emulator_settings import clear_counters, emulator_settings, kernels
from fastconv.verify.outcomes import Outcome, Report
from fastconv.verify.report import summary
from fastconv.verify.runner import Question

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

WGMMA = frozenset({("gemm", "wgmma")})
# 20 steps of 64: three times round the narrow tile's ring of six.
LONG = parse("gemm", "m8k1280n16", fill="integer")


def only(outcomes: runner.Outcomes, dtype: torch.dtype) -> Outcome:
    return outcomes["cuda_emulated", "", "gemm", "wgmma", str(dtype)]


def test_hoppers_rows_are_those_that_older_gpus_refuse() -> None:
    rows = newest_rows(cases_of("gemm"))
    assert rows >= {("gemm", "wgmma"), ("gemm", "wgmma_tf32")}
    assert not rows & {("gemm", "mma"), ("gemm", "mma_tf32"), ("gemm", "simt")}


def test_a_row_that_fails_before_hopper_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = type(LONG).run

    def fails(case: Case, inputs: Any, algo: str = "", backend: str = "") -> tuple[torch.Tensor, ...]:
        if algo == "wgmma":
            raise RuntimeError("illegal instruction")
        return right(case, inputs, algo, backend)

    monkeypatch.setattr(type(LONG), "run", fails)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        newest_rows([LONG])
    outcome = only(run_under_schedules([LONG], rows=WGMMA), torch.float16)
    assert (outcome.passed, outcome.refused) == (0, 0)
    assert len(outcome.failures) == 2 * len(SCHEDULES)


def test_an_empty_product_is_no_evidence() -> None:
    """The package answers it before any row is asked."""
    empty = [case for case in cases_of("gemm") if case.problem_string == "m0k4n5"]
    assert empty and ("gemm", "simt") in newest_rows(empty)


def test_every_case_runs_under_every_schedule() -> None:
    outcomes = run_under_schedules([LONG], rows=WGMMA)
    for dtype in (torch.float16, torch.bfloat16):
        outcome = only(outcomes, dtype)
        assert (outcome.passed, outcome.failures, outcome.ring_rounds) == (2 * len(SCHEDULES), [], 3)
    assert (only(outcomes, torch.float32).passed, only(outcomes, torch.float32).refused) == (0, 2)
    afterwards = run_under_schedules([parse("gemm", "m8k64n16")], rows=WGMMA)
    assert only(afterwards, torch.float16).ring_rounds == 1


def test_a_miss_under_one_schedule_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = type(LONG).run

    def wrong(*args: object) -> tuple[torch.Tensor, ...]:
        off = os.environ.get("FASTCONV_EMULATOR_SCHEDULE") == "rand:1"
        return tuple(y + off for y in right(*args))  # type: ignore[arg-type]

    monkeypatch.setattr(type(LONG), "run", wrong)
    outcome = only(run_under_schedules([LONG], rows=WGMMA), torch.float16)
    assert len(outcome.failures) == 2 and all("rand:1 eager 2" in text for text in outcome.failures)
    assert outcome.passed == 4


def test_a_short_ring_and_an_idle_row_are_no_success() -> None:
    ran = Outcome("cuda_emulated", "", "gemm", "wgmma", "float16", passed=9, ring_rounds=2)
    assert Report([ran], 1, 0.0).ok
    short = Report([ran], 1, 0.0, ring_rounds=3)
    assert short.short_rings == {("gemm", "wgmma"): 2} and not short.ok
    other = Outcome("cuda_emulated", "", "gemm", "wgmma", "bfloat16", passed=9, ring_rounds=3)
    assert Report([ran, other], 1, 0.0, ring_rounds=3).ok
    idle = Outcome("cuda_emulated", "", "gemm", "wgmma_tf32", "float32", refused=9, ring_rounds=3)
    assert not Report([other, idle], 1, 0.0, ring_rounds=3).ok
    assert Report([other, idle], 1, 0.0, newer=frozenset({("gemm", "wgmma_tf32")})).ok


def test_compiled_kernels_are_known_by_name_and_run() -> None:
    clear_counters()
    narrow = "gemm_wgmma_kernel<WgmmaConfig<half_t, 128, 6, 1, false>, ChannelEpilogue<half_t> >"
    assert narrow in kernels() and len(kernels()) > 100
    assert serves(Question(LONG, torch.float16, "nchw"), "wgmma", "90")
    assert not any(kernels().values()), "a launch that was cut short is no run"
    ran = only(run_under_schedules([LONG], rows=WGMMA), torch.float16).kernels
    assert narrow in ran and not any("bfloat16_t" in name for name in ran)
    clear_counters()
    assert not any(kernels().values())


def test_a_kernel_that_never_ran_is_no_success() -> None:
    ran = Outcome("cuda_emulated", "", "gemm", "wgmma", "float16", passed=9, kernels=["a", "b"])
    other = Outcome("cuda_emulated", "", "gemm", "wgmma", "bfloat16", passed=9, kernels=["b", "c"])
    assert Report([ran, other], 1, 0.0, kernels=frozenset("abc")).ok
    short = Report([ran], 1, 0.0, kernels=frozenset("abc"))
    assert short.idle_kernels == ["c"] and not short.ok
    assert summary(short).endswith("2 of 3 compiled kernels ran, but not c")
    ran.add(other)
    assert Report([ran], 1, 0.0, kernels=frozenset("abc")).ok


def test_command(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "all_cases", lambda: (LONG,))
    monkeypatch.setattr(emulated_gpu, "tile_cases", lambda: ())
    command = ["verify", "--backend", "cuda_emulated", "--arch", "sm_90a", "--algo", "wgmma"]
    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert header.endswith("schedules  times round the ring")
    assert row.split()[-2:] == ["3", "3"]
    assert {o["ring_rounds"] for o in json.loads((tmp_path / "out.json").read_text())["outcomes"]} == {0, 3}
    monkeypatch.setattr(emulated_gpu, "RING_ROUNDS", 4)
    assert main(command) == 1
    assert "gemm:wgmma went round its ring 3 times, not 4" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ["sm_75", "sm_80"])
def test_an_older_gpu_runs_what_it_has(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (parse("gemm", "m8k64n16"), LONG)
    monkeypatch.setattr(runner, "all_cases", lambda: cases)
    report = verify_on(arch, op="gemm")
    newer = {name for _, name in report.newer}
    assert newer >= {"wgmma"} and ("mma" in newer) == (arch == "sm_75") and "simt" not in newer
    chosen = [outcome for outcome in report.outcomes if outcome.algorithm == runner.CHOSEN]
    assert not report.failures and {outcome.refused for outcome in chosen} == {0}


def test_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    monkeypatch.delenv("FASTCONV_EMULATOR_LIMIT", raising=False)
    with pytest.raises(KeyError), emulator_settings(arch="75", limit=7, multiprocessors=0):
        assert os.environ["FASTCONV_EMULATED_ARCH"] == "75" and os.environ["FASTCONV_EMULATOR_LIMIT"] == "7"
        assert "FASTCONV_EMULATED_MULTIPROCESSORS" not in os.environ
        raise KeyError
    assert os.environ["FASTCONV_EMULATED_ARCH"] == "80" and "FASTCONV_EMULATOR_LIMIT" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "cuda_emulated", "--arch", "sm_70"], "expected arch to be one of sm_75, sm_80, sm_90a"),
        (["--backend", "cpu", "--arch", "sm_80"], "--arch chooses the GPU of --backend cuda_emulated"),
        (["--backend", "cuda_emulated", "--arch", "sm_90a", "--quick"], "neither quick nor one_per_kernel"),
        (["--backend", "cuda_emulated", "--arch", "sm_90a", "--op", "gemm", "--algo", "mma"], "expected algo to be"),
    ],
)
def test_bad_arguments(capsys, arguments: list[str], message: str) -> None:
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err
