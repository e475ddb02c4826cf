"""Runs every (operator, algorithm, dtype, layout, instruction set) over the cases and compares with the reference."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from fastconv import _C, introspection

from .case import LAYOUTS, Case, Inputs, on_device
from .cases import all_cases
from .outcomes import Outcome, Outcomes, Report, merge
from .shares import in_shares
from .tf32 import in_full_precision, round_to_tf32, rounds_to_tf32
from .tolerances import Comparison, compare_all

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Algorithms that sum in an order the definition does not have, and how many times torch's error they may show instead
# of 2: no exact or elementwise NaN/Inf comparison (docs/numerics.md says why, and what was measured).
TRANSFORMING = {
    "phase": 4.0,
    "phase_mma": 4.0,
    "phase_wgmma": 4.0,
    "winograd": 16.0,
    "winograd_4x4": 16.0,
    "winograd_2x2": 4.0,
    "fft": 4.0,
}
# Of them, those with factors such as 1/3 or irrational ones: where integers make torch exact, its error is no measure
# for them.
ROUNDING = {"winograd", "winograd_4x4", "fft"}
# Instruction sets that are AVX-512 with products of bfloat16 added: beside avx512 only those products are run.
BF16_ISAS = ("amx", "avx512_bf16")
CHOSEN = ""  # the package's own choice of algorithm
ON_GPU = ("cuda", "triton")  # backends of tensors that lie there
MUST_SERVE = ("cpu", "cuda_emulated", "cuda", "triton_interpreted", "triton")
BACKENDS = ("cpu", "cuda_emulated", "cuda", "triton_interpreted", "triton")


def verify(
    backend: str | None = None,
    *,
    op: str | None = None,
    algo: str | None = None,
    isa: str | None = None,
    quick: bool = False,
    one_per_kernel: bool = False,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Compares every algorithm of the chosen backends with the reference.

    Args:
        backend: one of BACKENDS; None runs all that are available here.
        op, algo, isa: run only this operator, algorithm, instruction set of the CPU backend.
        quick: every seventh case, float32 only.
        one_per_kernel: the largest case that each algorithm serves, in float32 and bfloat16 and no more: for tools that
            slow a GPU down a hundredfold.
        jobs: processes to share the cases among; the outcomes do not depend on it.
        progress: called with (text, done, total) before each case; with several jobs, after each share.

    Returns:
        The report; `report.ok` is what an exit code should say.

    Raises:
        ValueError: a name that does not exist; the message lists the valid ones.
    """
    cases = select_cases(op, quick)
    targets = _targets(backend, isa)
    if algo is not None:
        _check_algorithm(algo, targets, cases)
    dtypes = DTYPES[:1] if quick else DTYPES
    started = time.perf_counter()
    run = partial(run_cases, dtypes=dtypes, targets=targets, algo=algo)
    if one_per_kernel:
        outcomes = run_one_per_kernel(cases, targets, algo)
    elif jobs > 1:
        outcomes = merge(in_shares(run, cases, jobs, progress))
    else:
        outcomes = run(cases, progress=progress)
    return Report(list(outcomes.values()), len(cases), time.perf_counter() - started, quick)


def run_cases(
    cases: Sequence[Case],
    *,
    dtypes: Sequence[torch.dtype],
    targets: Sequence[tuple[str, str]],
    algo: str | None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcomes:
    """The cases one after the other, in every dtype and layout."""
    outcomes: Outcomes = {}
    for number, case in enumerate(cases):
        if progress is not None:
            progress(str(case), number, len(cases))
        for dtype in dtypes:
            for layout in LAYOUTS:
                run_case(case, dtype, layout, targets, algo, outcomes)
    return outcomes


def run_one_per_kernel(cases: Sequence[Case], targets: Sequence[tuple[str, str]], algo: str | None) -> Outcomes:
    """For each operator, algorithm and dtype the largest case that it serves."""
    kept: list[Outcomes] = []
    for op in sorted({case.op for case in cases}):
        largest_first = sorted((case for case in cases if case.op == op), key=lambda case: case.flops(), reverse=True)
        for target in targets:
            for name in [CHOSEN, *introspection.algorithm_names(op, target[0])] if algo is None else [algo]:
                for dtype in (torch.float32, torch.bfloat16):
                    for case in largest_first:
                        outcomes: Outcomes = {}
                        run_case(case, dtype, "nhwc", [target], name, outcomes)
                        if any(outcome.passed or outcome.failures for outcome in outcomes.values()):
                            kept.append(outcomes)
                            break
    return merge(kept)


def select_cases(op: str | None, quick: bool) -> Sequence[Case]:
    """All cases, one operator's, or a sample of either."""
    cases: Sequence[Case] = all_cases()
    if op is not None:
        ops = sorted({case.op for case in cases})
        if op not in ops:
            raise ValueError(f"verify: expected op to be one of {', '.join(ops)}, but got {op!r}")
        cases = [case for case in cases if case.op == op]
    return cases[::7] if quick else cases


def _targets(backend: str | None, isa: str | None) -> list[tuple[str, str]]:
    """(backend, instruction set) pairs to run; only the CPU backend has instruction sets."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"verify: expected backend to be one of {', '.join(BACKENDS)}, but got {backend!r}")
    isas = introspection.available_isas()
    if isa is not None and isa not in isas:
        raise ValueError(f"verify: expected isa to be one of {', '.join(isas)} on this CPU, but got {isa!r}")
    if isa is None and introspection.isa_is_forced():
        isa = introspection.isa()
    wanted = [backend] if backend is not None else [b for b in BACKENDS if introspection.why_unavailable(b) is None]
    return [(b, i) for b in wanted for i in (([isa] if isa else isas) if b == "cpu" else [""])]


def _check_algorithm(algo: str, targets: Sequence[tuple[str, str]], cases: Sequence[Case]) -> None:
    backends, ops = {backend for backend, _ in targets}, {case.op for case in cases}
    names = sorted({name for b in backends for op in ops for name in introspection.algorithm_names(op, b)})
    if algo not in names:
        raise ValueError(f"verify: expected algo to be one of {', '.join(names)}, but got {algo!r}")


@contextmanager
def _isa(name: str) -> Iterator[None]:
    if not name or name == introspection.isa():
        yield
        return
    before = introspection.isa()
    introspection.select_isa(name)
    try:
        yield
    finally:
        introspection.select_isa(before)


def served_by(isa: str, names: Sequence[str]) -> list[str]:
    """The rows that an instruction set of the CPU has instructions for; all rows of another backend (isa "")."""
    return [name for name in names if name not in BF16_ISAS or isa in ("", "amx", name)]


def run_case(
    case: Case,
    dtype: torch.dtype,
    layout: str,
    targets: Sequence[tuple[str, str]],
    algo: str | None,
    outcomes: Outcomes,
) -> None:
    """One case in one dtype and layout on (backend, instruction set) targets, its results added to `outcomes`.

    `algo` None runs the package's choice (CHOSEN) and every algorithm of the operator.
    """
    question = Question(case, dtype, layout)
    for backend, isa in targets:
        names = [CHOSEN, *served_by(isa, introspection.algorithm_names(case.op, backend))]
        if isa in BF16_ISAS and (backend, "avx512") in targets:
            if dtype is not torch.bfloat16 or isa not in names:
                continue
            names = [CHOSEN, isa]
        for name in names if algo is None else [n for n in names if n == algo]:
            if not is_asked(case, name):
                continue
            key = (backend, isa, case.op, name, str(dtype))
            outcome = outcomes.setdefault(key, Outcome(*key[:4], dtype=str(dtype).removeprefix("torch.")))
            with _isa(isa):
                run_one(question, outcome)


class Question:
    """One case in one dtype and layout: its operands and the two answers to compare with, made when asked for."""

    def __init__(self, case: Case, dtype: torch.dtype, layout: str) -> None:
        self.case, self.dtype, self.layout = case, dtype, layout
        self._inputs: dict[bool, Inputs] = {}
        self._answers: dict[bool, tuple[tuple, tuple]] = {}

    def inputs(self, algorithm: str) -> Inputs:
        """The operands; tf32 values for an algorithm that rounds to them."""
        tf32 = rounds_to_tf32(algorithm, self.dtype)
        if tf32 not in self._inputs:
            inputs = self.case.make_inputs(self.dtype, self.layout)
            self._inputs[tf32] = round_to_tf32(inputs) if tf32 else inputs
        return self._inputs[tf32]

    def answers(self, algorithm: str) -> tuple[tuple, tuple]:
        """The float64 truth, and torch's own answer."""
        tf32 = rounds_to_tf32(algorithm, self.dtype)
        if tf32 not in self._answers:
            inputs = self.inputs(algorithm)
            self._answers[tf32] = self.case.reference(inputs), self.case.torch_same(inputs)
        return self._answers[tf32]


def run_one(question: Question, outcome: Outcome, how: str = "") -> None:
    """Asks the algorithm of `outcome`, and enters what it answers; `how` stands in the text of a failure."""
    case, layout, inputs = question.case, question.layout, question.inputs(outcome.algorithm)
    place = f"{outcome.backend} {outcome.isa}".strip()
    where = f"{place} {case} {outcome.name} {outcome.dtype} {layout}{how}"
    truth, same = question.answers(outcome.algorithm)  # before anything can have changed the operands
    try:
        if outcome.backend in ON_GPU:
            with in_full_precision():
                actual = case.run(on_device(inputs, "cuda"), outcome.algorithm, outcome.backend)
        else:
            actual = case.run(inputs, outcome.algorithm, outcome.backend)
    except Exception as error:
        refusal = refusal_in(error)
        if refusal is not None:
            # A compiled backend must serve every case by its own choice; an algorithm by name may refuse.
            if outcome.backend in MUST_SERVE and outcome.algorithm == CHOSEN:
                outcome.failures.append(f"{where}: not served: {refusal}")
            outcome.refused += 1
            outcome.refusal = refusal
            return
        last = traceback.extract_tb(error.__traceback__)[-1]
        outcome.failures.append(f"{where}: {type(error).__name__} at {last.name}:{last.lineno}: {error}")
        return
    verdict = _judge(case, outcome.algorithm, actual, truth, same)
    outcome.worst = max(outcome.worst, verdict.max_error / verdict.tolerance if verdict.tolerance else 0.0)
    if verdict:
        outcome.passed += 1
        outcome.idle += is_idle(inputs)
    else:
        outcome.failures.append(f"{where}: {verdict.message}")


def is_asked(case: Case, algorithm: str) -> bool:
    """Whether the algorithm's order of summation leaves the case anything to compare with."""
    return not ((case.elementwise and _rearranges(case, algorithm)) or (case.exact and algorithm in ROUNDING))


def is_idle(inputs: Inputs) -> bool:
    """Whether there is nothing to compute: the package answers that before it asks any algorithm."""
    return any(t is not None and t.numel() == 0 for t in inputs.values())


def refusal_in(error: Exception) -> str | None:
    """The reasons, where an algorithm declined the problem; operators called directly carry a mark in their text."""
    if isinstance(error, NotImplementedError):
        return str(error)
    _, mark, reasons = str(error).partition(_C.NOT_SERVED_MARK)
    return reasons.strip() if mark else None


def _rearranges(case: Case, algorithm: str) -> bool:
    """Whether sums may be taken in another order than the definition's; upsampling by itself chooses `phase`."""
    return algorithm in TRANSFORMING or (algorithm == CHOSEN and case.op.startswith("upsample_conv2d"))


def _judge(case: Case, algorithm: str, actual: tuple, truth: tuple, same: tuple) -> Comparison:
    factor = TRANSFORMING["phase" if algorithm == CHOSEN else algorithm] if _rearranges(case, algorithm) else 2.0
    exact = case.exact and not _rearranges(case, algorithm)
    return compare_all(actual, truth, same, exact=exact, factor=factor)
