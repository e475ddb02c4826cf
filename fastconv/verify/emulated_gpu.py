"""`fastconv verify --backend cuda_emulated --arch sm_..`: the CUDA kernels on an emulated GPU of another generation.

On sm_90a it is the rows that only Hopper serves, each of their cases under several schedules of threads and
asynchronous copies: warp-specialised kernels meet their races in the order of things, and only in reductions that go
round the ring of stages more than once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from fastconv import backends, introspection

from . import runner
from .case import LAYOUTS, Case
from .emulator_settings import LIMIT_REACHED, clear_counters, emulator_settings, kernels, ring_rounds
from .outcomes import Outcome, Outcomes, Report, merge
from .runner import Question
from .shares import in_shares
from .tile_cases import tile_cases

BACKEND = "cuda_emulated"
ARCHITECTURES = {"sm_75": "75", "sm_80": "80", "sm_90a": "90"}
# Order of threads and blocks, asynchronous copies, multiprocessors (0: an H200's).
Schedule = tuple[str, str, int]
# In order with copies as late as can be, and by chance with copies at once and by chance. On few multiprocessors a
# block has several tiles.
SCHEDULES = (("fifo", "lazy", 0), ("rand:1", "eager", 2), ("rand:2", "rand:1", 4))
# Of tile_cases, whose kernels follow from the number of multiprocessors.
TILE_SCHEDULES = (("fifo", "lazy", 1), ("rand:1", "eager", 1), ("fifo", "lazy", 2), ("rand:2", "rand:1", 2))
RING_ROUNDS = 3

Row = tuple[str, str]  # operator, algorithm


def verify_on(
    arch: str,
    *,
    op: str | None = None,
    algo: str | None = None,
    quick: bool = False,
    one_per_kernel: bool = False,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Compares the CUDA kernels of an emulated GPU with the reference.

    Args:
        arch: one of ARCHITECTURES. On sm_90a only the rows that sm_80 refuses for every case are run, each of their
            cases under SCHEDULES and cases for large tiles under TILE_SCHEDULES. Each row has to go round its ring of
            stages RING_ROUNDS times and, unless op or algo leave some out, every compiled instance of these kernels to
            run; on others what `runner.verify` runs, but for rows that the GPU is too old for.
        op, algo, quick, one_per_kernel, jobs, progress: as for `runner.verify`; quick and one_per_kernel, which leave
            cases out, not on sm_90a.

    Returns:
        The report.

    Raises:
        ValueError: a name that does not exist, or one that Hopper's rows do not have.
        NotImplementedError: this build has no emulated kernels.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"verify: expected arch to be one of {', '.join(ARCHITECTURES)}, but got {arch!r}")
    if (reason := backends.why_unavailable(BACKEND)) is not None:
        raise NotImplementedError(f"verify: {BACKEND} is not available: {reason}")
    if arch == "sm_90a":
        if quick or one_per_kernel:
            raise ValueError("verify: expected neither quick nor one_per_kernel with arch sm_90a, which runs all cases")
        return _verify_newest(op, algo, jobs, progress)
    with emulator_settings(arch=ARCHITECTURES[arch]):
        report = runner.verify(
            BACKEND, op=op, algo=algo, quick=quick, one_per_kernel=one_per_kernel, jobs=jobs, progress=progress
        )
    idle = {(o.op, o.algorithm) for o in report.never_ran}
    served = partial(rows_served, runner.select_cases(op, False), rows=idle)
    newer = served(arch=ARCHITECTURES["sm_90a"]) - served(arch=ARCHITECTURES[arch])
    return replace(report, newer=frozenset(newer))


def _verify_newest(
    op: str | None, algo: str | None, jobs: int, progress: Callable[[str, int, int], None] | None
) -> Report:
    started = time.perf_counter()
    cases = runner.select_cases(op, False)
    rows = newest_rows(cases)
    if algo is not None:
        if algo not in (names := sorted({name for _, name in rows})):
            raise ValueError(f"verify: expected algo to be one of {', '.join(names)} with sm_90a, but got {algo!r}")
        rows = {row for row in rows if row[1] == algo}
    ops = {row[0] for row in rows}
    own = [case for case in cases if case.op in ops]
    large = [case for case in tile_cases() if case.op in ops]
    run = partial(run_under_schedules, rows=frozenset(rows))
    shares: list[Outcomes] = []
    for some, how in ((own, run), (large, partial(run, schedules=TILE_SCHEDULES, layouts=("nhwc",)))):
        shares += in_shares(how, some, jobs, progress) if jobs > 1 else [how(some, progress=progress)]
    return Report(
        list(merge(shares).values()),
        len(own) + len(large),
        time.perf_counter() - started,
        schedules=tuple(f"{schedule} {copies}" for schedule, copies, _ in SCHEDULES),
        ring_rounds=RING_ROUNDS,
        kernels=frozenset() if op or algo else frozenset(kernels()),
    )


def newest_rows(cases: Sequence[Case]) -> set[Row]:
    """The rows that serve none of the cases before sm_90."""
    rows = {(op, name) for op in {case.op for case in cases} for name in introspection.algorithm_names(op, BACKEND)}
    return rows - rows_served(cases, ARCHITECTURES["sm_80"], rows)


def rows_served(cases: Sequence[Case], arch: str, rows: Collection[Row]) -> set[Row]:
    """Those of `rows` that serve one of the cases, with something to compute, on an emulated GPU."""
    served: set[Row] = set()
    for case in cases:
        for dtype in runner.DTYPES:
            open_rows = [row for row in rows if row[0] == case.op and row not in served]
            if open_rows:
                question = Question(case, dtype, LAYOUTS[0])
                served |= {row for row in open_rows if serves(question, row[1], arch)}
    return served


def serves(question: Question, algorithm: str, arch: str) -> bool:
    """Whether a row takes the case: where it does, it comes as far as a launch, which is not allowed to do anything.

    Raises:
        Exception: anything else than a refusal or the end of such a launch: a row that fails is not left out unseen.
    """
    inputs = question.inputs(algorithm)
    if runner.is_idle(inputs):
        return False
    with emulator_settings(arch=arch, limit=1):
        try:
            question.case.run(inputs, algorithm, BACKEND)
        except Exception as error:
            if runner.refusal_in(error) is not None:
                return False
            if LIMIT_REACHED not in str(error):
                raise
    return True


def run_under_schedules(
    cases: Sequence[Case],
    *,
    rows: Collection[Row],
    schedules: Sequence[Schedule] = SCHEDULES,
    layouts: Sequence[str] = LAYOUTS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcomes:
    """Every case in every dtype and layout that a row serves on sm_90a, under each of the schedules."""
    outcomes: Outcomes = {}
    for number, case in enumerate(cases):
        if progress is not None:
            progress(str(case), number, len(cases))
        for dtype in runner.DTYPES:
            for layout in layouts:
                question = Question(case, dtype, layout)
                for name in (name for op, name in rows if op == case.op and runner.is_asked(case, name)):
                    key = (BACKEND, "", case.op, name, str(dtype))
                    outcome = outcomes.setdefault(key, Outcome(*key[:4], dtype=str(dtype).removeprefix("torch.")))
                    _run_in_turn(question, outcome, schedules)
    return outcomes


def _run_in_turn(question: Question, outcome: Outcome, schedules: Sequence[Schedule]) -> None:
    try:
        served = serves(question, outcome.algorithm, ARCHITECTURES["sm_90a"])
    except Exception:
        served = True  # so that the run itself says what is wrong, as a failure of the row's
    if not served:
        outcome.refused += 1
        return
    ran: set[str] = set()
    for schedule, copies, multiprocessors in schedules:
        clear_counters()
        arch = ARCHITECTURES["sm_90a"]
        with emulator_settings(arch=arch, schedule=schedule, copies=copies, multiprocessors=multiprocessors):
            runner.run_one(question, outcome, f" {schedule} {copies} {multiprocessors or ''}".rstrip())
        outcome.ring_rounds = max(outcome.ring_rounds, ring_rounds())
        ran |= {name for name, has_run in kernels().items() if has_run}
    outcome.kernels = sorted({*outcome.kernels, *ran})
