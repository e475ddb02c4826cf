"""Runs verification cases against the library in the scratch folder, each time in a fresh child of this process.

The parent has imported torch and the package and has computed references, but has never opened the library; so a child
finds the mutant, and a crash or an endless loop ends only the child.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Each case runs under one of these, in turn.
SETTINGS = [
    {"FASTCONV_EMULATOR_SCHEDULE": "fifo", "FASTCONV_EMULATOR_COPIES": "lazy"},
    {"FASTCONV_EMULATOR_SCHEDULE": "lifo", "FASTCONV_EMULATOR_COPIES": "eager"},
    {"FASTCONV_EMULATOR_SCHEDULE": "rand:1", "FASTCONV_EMULATOR_COPIES": "rand:1"},
]
DTYPES = ("float32", "float16")
CANDIDATES = 40  # cases that an algorithm serves, at most; looked for this many at a time
# Far above what any case takes, far below forever; CPU time is for loops that touch no memory.
LIMIT_ACCESSES = 100_000_000
LIMIT_CPU_SECONDS = 120


@dataclass
class Trial:
    """One case in one dtype and layout for one algorithm, with what its result is compared to."""

    question: Any  # of fastconv.verify.runner
    algorithm: str
    seconds: float = 0.0
    judged: bool = True

    def run(self) -> str:
        """Empty where the algorithm served the case, rightly if that is judged, else what is wrong."""
        from fastconv.verify import runner

        if not self.judged:
            return self._refusal()
        dtype = str(self.question.dtype).removeprefix("torch.")
        outcome = runner.Outcome("cuda_emulated", "", self.question.case.op, self.algorithm, dtype)
        runner.run_one(self.question, outcome)
        return outcome.failures[0] if outcome.failures else "refused: " + outcome.refusal if outcome.refused else ""

    def _refusal(self) -> str:
        from fastconv.verify import runner

        try:
            self.question.case.run(self.question.inputs(self.algorithm), self.algorithm, "cuda_emulated")
        except Exception as error:
            return f"refused: {runner.refusal_in(error) or error}"
        return ""

    def judge(self) -> None:
        """Adds what the result is to be compared with."""
        self.question.answers(self.algorithm)
        self.judged = True


def start(package: Path) -> None:
    """Imports the package whose library is to be judged."""
    sys.path.insert(0, str(package))
    import torch

    import fastconv

    torch.set_num_threads(1)
    assert Path(fastconv.__file__).is_relative_to(package)


def trials(op: str, algorithm: str, seed: int, budget: float) -> list[Trial]:
    """Cases that the unmutated library serves, in an order drawn by `seed`, for `budget` seconds of CPU time."""
    candidates = _served(op, algorithm, seed, budget)
    for candidate in candidates:
        candidate.judge()
    report = _in_child(candidates, stop_at_failure=False, budget=budget)
    kept = []
    for trial, (message, seconds) in zip(candidates, report["results"], strict=False):
        trial.seconds = seconds
        if not message:
            kept.append(trial)
        else:
            # Somebody's to mend, and no use here: whatever the mutation, it fails.
            print(f"mutation: left out, fails without a mutation: {message[:200]}")
    return kept


def _served(op: str, algorithm: str, seed: int, budget: float) -> list[Trial]:
    """Cases that the algorithm computes. Some rows serve one in ten: all are asked, until enough are found."""
    import torch

    from fastconv.verify import runner
    from fastconv.verify.cases import all_cases

    cases = [case for case in all_cases() if case.op == op]
    order = [(case, dtype, layout) for case in cases for dtype in DTYPES for layout in ("nchw", "nhwc")]
    random.Random(seed).shuffle(order)
    served: list[Trial] = []
    spent = 0.0
    for first in range(0, len(order), CANDIDATES):
        asked = []
        for case, dtype, layout in order[first : first + CANDIDATES]:
            question = runner.Question(case, getattr(torch, dtype), layout)
            question.inputs(algorithm)
            asked.append(Trial(question, algorithm, judged=False))
        for trial, (message, seconds) in zip(asked, _in_child(asked, False, budget)["results"], strict=False):
            spent += seconds
            if not message and not runner.is_idle(trial.question.inputs(algorithm)):
                served.append(trial)
        if len(served) >= CANDIDATES or spent > budget:
            break
    return served[:CANDIDATES]


def verdict(chosen: list[Trial]) -> str:
    """Why the library in place is wrong, or an empty text where it survives every trial."""
    report = _in_child(chosen, stop_at_failure=True, budget=float("inf"))
    if report["signal"]:
        return f"ended by {signal.Signals(report['signal']).name}"
    return next((message for message, _ in report["results"] if message), "")


def _in_child(chosen: list[Trial], stop_at_failure: bool, budget: float) -> dict:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(chosen, writer, stop_at_failure, budget)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"results": [json.loads(line) for line in lines], "signal": ended_by}


def _child(chosen: list[Trial], writer: int, stop_at_failure: bool, budget: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_SECONDS, LIMIT_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["FASTCONV_EMULATOR_LIMIT"] = str(LIMIT_ACCESSES)
    started = time.process_time()
    for number, trial in enumerate(chosen):
        os.environ.update(SETTINGS[number % len(SETTINGS)])
        before = time.process_time()
        message = trial.run()
        os.write(writer, (json.dumps([message[:2000], time.process_time() - before]) + "\n").encode())
        if (message and stop_at_failure) or time.process_time() - started > budget:
            break
    os._exit(0)
