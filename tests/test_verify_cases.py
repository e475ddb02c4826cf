"""The cases of `fastconv verify`, a share of each: one dtype and layout a case, every algorithm, one or two ISAs, and
the kernels for GPUs as executed on the CPU.

`fastconv verify` runs the full product, in CI too; here a case that fails has a name that pytest can run alone.
"""

from __future__ import annotations

import itertools
import zlib

import pytest
import torch

import fastconv
from fastconv import introspection
from fastconv.verify import runner
from fastconv.verify.case import LAYOUTS, Case
from fastconv.verify.cases import all_cases, cases_of

# By a hash of its name, a case keeps its dtype and layout when others come and go.
MIXES = tuple(itertools.product(runner.DTYPES, LAYOUTS))
# GPU kernels that run without a GPU.
EXECUTED = [b for b in ("cuda_emulated", "triton_interpreted") if introspection.why_unavailable(b) is None]


def _draw(case: Case, count: int, salt: str = "") -> int:
    return zlib.crc32((str(case) + salt).encode()) % count


def _mix(case: Case) -> tuple[torch.dtype, str]:
    return MIXES[_draw(case, len(MIXES))]


def _targets(case: Case) -> list[tuple[str, str]]:
    """The instruction set in use, one of the others, and every backend that executes GPU kernels."""
    used = introspection.isa()
    others = [isa for isa in introspection.available_isas() if isa != used and not introspection.isa_is_forced()]
    other = others[_draw(case, max(len(others), 1), "isa") :][:1]
    return [("cpu", used), *(("cpu", isa) for isa in other), *((backend, "") for backend in EXECUTED)]


def _name(case: Case) -> str:
    dtype, layout = _mix(case)
    return f"{case}-{str(dtype).removeprefix('torch.')}-{layout}".replace(" ", "-")


@pytest.mark.parametrize("case", all_cases(), ids=_name)
def test_case(case: Case) -> None:
    outcomes: dict[tuple[str, ...], runner.Outcome] = {}
    runner.run_case(case, *_mix(case), _targets(case), None, outcomes)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    assert not failures, "\n".join(failures)
    assert any(outcome.passed for outcome in outcomes.values())


ROWS = [
    (op, name, backend, isa)
    for op in introspection.OPERATORS
    for backend, isa in [*(("cpu", isa) for isa in introspection.available_isas()), *((b, "") for b in EXECUTED)]
    for name in runner.served_by(isa, introspection.algorithm_names(op, backend))
]


@pytest.mark.parametrize(("op", "algorithm", "backend", "isa"), ROWS)
def test_every_algorithm_of_every_table_runs(op: str, algorithm: str, backend: str, isa: str) -> None:
    """A row that refuses every case is tested by nothing. Tensor cores take half precision only."""
    for dtype in (torch.float32, torch.bfloat16):
        for case in cases_of(op):
            outcomes: dict[tuple[str, ...], runner.Outcome] = {}
            runner.run_case(case, dtype, "nhwc", [(backend, isa)], algorithm, outcomes)
            if any(outcome.passed or outcome.failures for outcome in outcomes.values()):
                assert [outcome.passed for outcome in outcomes.values()] == [1], [o.failures for o in outcomes.values()]
                return
    pytest.fail("every case was refused")


def test_every_operator_has_cases_and_an_algorithm() -> None:
    ops = {case.op for case in all_cases()}
    for op in introspection.OPERATORS:
        assert op in ops and introspection.algorithm_names(op), op
    # What has a single kernel is still an operator with cases; packing only rearranges.
    aside = ("pack_", "_backward", "activation_", "prelu_alpha_grad")
    single = {name for name in fastconv.ops.operator_names() if not any(part in name for part in aside)}
    assert single - {"activation"} <= ops


def test_the_shares_cover_every_dtype_and_layout_of_every_operator() -> None:
    for op in {case.op for case in all_cases()}:
        drawn = {_mix(case) for case in cases_of(op)}
        assert {dtype for dtype, _ in drawn} == set(runner.DTYPES), op
        assert {layout for _, layout in drawn} == set(LAYOUTS), op


@pytest.mark.parametrize("name", ["wrong", "refusing", "raising"])
def test_the_runner_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is judged: a wrong value, a case that nothing serves, and an error must each be reported."""
    case = cases_of("conv2d")[0]
    right = type(case).run

    def wrong(*args: object) -> tuple[torch.Tensor, ...]:
        return tuple(y + 1 for y in right(*args))  # type: ignore[arg-type]

    def refusing(*args: object) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError("nothing serves it")

    def raising(*args: object) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("out of order")

    monkeypatch.setattr(type(case), "run", {"wrong": wrong, "refusing": refusing, "raising": raising}[name])
    outcomes: dict[tuple[str, ...], runner.Outcome] = {}
    runner.run_case(case, torch.float32, "nchw", [("cpu", introspection.isa())], runner.CHOSEN, outcomes)
    (outcome,) = outcomes.values()
    report = runner.Report([outcome], 1, 0.0)
    assert len(outcome.failures) == 1 and not outcome.passed and not report.ok


def test_an_empty_problem_reaches_no_algorithm() -> None:
    """The package answers it first, so such a case is no evidence that a row of the tables works."""
    (empty,) = [case for case in cases_of("conv2d") if case.id == "mb0ic4ih5oc6oh5kh3ph1"]
    outcomes: runner.Outcomes = {}
    runner.run_case(empty, torch.float32, "nchw", [("cpu", introspection.isa())], "direct", outcomes)
    (outcome,) = outcomes.values()
    report = runner.Report([outcome], 1, 0.0)
    assert outcome.passed == 1 and report.never_ran == [outcome] and not report.ok
    assert runner.Report([outcome], 1, 0.0, quick=True).ok
    runner.run_case(cases_of("conv2d")[0], torch.float32, "nchw", [("cpu", introspection.isa())], "direct", outcomes)
    assert outcome.passed == 2 and not report.never_ran and report.ok
