"""python -m buildtools.mutation"""

import argparse
import difflib
import random
import time
from collections import defaultdict

from . import judge, scratch
from .edits import OPERATORS, Mutant, mutants
from .equivalent import EQUIVALENT
from .targets import served


def sample(files: list[str], operators: list[str], count: int, seed: int) -> list[Mutant]:
    """Mutants in random order, every operator as often as the others while it has any."""
    generator = random.Random(seed)
    by_operator: dict[str, list[Mutant]] = defaultdict(list)
    for file in files:
        for mutant in mutants(file, scratch.source(file).read_text()):
            if mutant.operator in operators:
                by_operator[mutant.operator].append(mutant)
    for group in by_operator.values():
        generator.shuffle(group)
    chosen: list[Mutant] = []
    while any(by_operator.values()) and len(chosen) < count:
        for operator in sorted(by_operator):
            if by_operator[operator] and len(chosen) < count:
                chosen.append(by_operator[operator].pop())
    return chosen


def difference(mutant: Mutant) -> str:
    """The edited lines, before and after."""
    text = scratch.source(mutant.file).read_text()
    lines = difflib.unified_diff(text.splitlines(), mutant.apply(text).splitlines(), lineterm="", n=0)
    return "\n".join("      " + line for line in list(lines)[3:])


class Tests:
    """The trials of each compilation unit, drawn when they are first needed."""

    def __init__(self, seed: int, budget: float) -> None:
        self.seed, self.budget = seed, budget
        self.drawn: dict[str, list[judge.Trial]] = {}

    def reached_from(self, file: str) -> list[str]:
        """The .cu files that contain `file` and have trials of their own."""
        return [unit for unit in scratch.dependents(file) if served(unit, scratch.source(unit).read_text())]

    def of(self, unit: str) -> list[judge.Trial]:
        """The trials that reach the kernels of a .cu file."""
        if unit not in self.drawn:
            scratch.restore_library()
            rows = served(unit, scratch.source(unit).read_text())
            drawn = [judge.trials(op, algorithm, self.seed, self.budget / len(rows)) for op, algorithm in rows]
            self.drawn[unit] = [trial for trials in drawn for trial in trials]
        return self.drawn[unit]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m buildtools.mutation", description=__package__)
    parser.add_argument("--count", type=int, default=60, help="mutants to try (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--file", action="append", help="only this source of csrc/cuda, e.g. kernels/gemm_simt.cuh")
    parser.add_argument("--operator", action="append", choices=sorted(OPERATORS), help="only this operator")
    parser.add_argument("--units", type=int, default=2, help="compilation units to try a survivor with (default: 2)")
    parser.add_argument("--budget", type=float, default=20.0, help="CPU seconds of cases for each unit (default: 20)")
    arguments = parser.parse_args()
    scratch.prepare()
    judge.start(scratch.SCRATCH / "package")
    folder = scratch.SCRATCH / "csrc" / "cuda"
    files = arguments.file or sorted(str(path.relative_to(folder)) for path in folder.glob("kernels/*.cuh"))
    drawn = sample(files, arguments.operator or list(OPERATORS), 10 * arguments.count, arguments.seed)
    tests = Tests(arguments.seed, arguments.budget)
    killed: dict[str, int] = defaultdict(int)
    survived: list[Mutant] = []
    left_out = equivalent = 0
    for mutant in drawn:
        if sum(killed.values()) + len(survived) == arguments.count:
            break
        if mutant.key in EQUIVALENT:
            equivalent += 1
            continue
        started, reason, compiled = time.monotonic(), "", False
        for unit in tests.reached_from(mutant.file)[: arguments.units]:
            trials = tests.of(unit)  # before the build: drawing them takes the unmutated library
            if not scratch.build(mutant, unit):
                break
            compiled = True
            reason = judge.verdict(trials)
            if reason:
                break
        if not compiled:
            left_out += 1
            continue
        if reason:
            killed[mutant.operator] += 1
        else:
            survived.append(mutant)
        seconds = time.monotonic() - started
        print(f"{'killed  ' if reason else 'SURVIVED'} {mutant} ({seconds:.0f} s): {mutant.source_line}")
        print(f"      {reason.splitlines()[0][:200]}" if reason else difference(mutant), flush=True)
    report(killed, survived, left_out, equivalent)


def report(killed: dict[str, int], survived: list[Mutant], left_out: int, equivalent: int) -> None:
    """The score by operator and altogether."""
    print(f"\n{'operator':<22}{'killed':>8}{'of':>6}")
    for operator in OPERATORS:
        alive = sum(mutant.operator == operator for mutant in survived)
        if killed[operator] + alive:
            print(f"{operator:<22}{killed[operator]:>8}{killed[operator] + alive:>6}")
    dead = sum(killed.values())
    total = dead + len(survived)
    print(f"{'all':<22}{dead:>8}{total:>6}   {100 * dead / max(total, 1):.1f} %")
    print(f"left out: {left_out} that do not compile, {equivalent} known to be equivalent")
    for mutant in survived:
        print(f"survived: {mutant}: {mutant.source_line}")


if __name__ == "__main__":
    main()
