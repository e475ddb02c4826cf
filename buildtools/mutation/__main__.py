"""python -m buildtools.mutation"""

import argparse
import difflib
import random
import time
from collections import defaultdict

from . import judge, scratch
from .edits import OPERATORS, Mutant, mutants
from .equivalent import EQUIVALENT
from .scratch import Built
from .targets import served


def sample(files: list[str], operators: list[str], seed: int) -> list[Mutant]:
    """All mutants in random order, every operator as often as the others while it has any."""
    generator = random.Random(seed)
    by_operator: dict[str, list[Mutant]] = defaultdict(list)
    for file in files:
        for mutant in mutants(file, scratch.source(file).read_text()):
            if mutant.operator in operators:
                by_operator[mutant.operator].append(mutant)
    for group in by_operator.values():
        generator.shuffle(group)
    chosen: list[Mutant] = []
    while any(by_operator.values()):
        for operator in sorted(by_operator):
            if by_operator[operator]:
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
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many of the sample")
    parser.add_argument("--file", action="append", help="only this source of csrc/cuda, e.g. kernels/gemm_simt.cuh")
    parser.add_argument("--at", action="append", help="only at this place, e.g. kernels/gemm_simt.cuh:168")
    parser.add_argument("--operator", action="append", choices=sorted(OPERATORS), help="only this operator")
    parser.add_argument("--units", type=int, default=2, help="compilation units to try a survivor with (default: 2)")
    parser.add_argument("--budget", type=float, default=20.0, help="CPU seconds of cases for each unit (default: 20)")
    arguments = parser.parse_args()
    scratch.prepare()
    judge.start(scratch.SCRATCH / "package")
    folder = scratch.SCRATCH / "csrc" / "cuda"
    places = [place.rpartition(":") for place in arguments.at or []]
    files = (
        arguments.file
        or sorted({file for file, _, _ in places})
        or sorted(str(path.relative_to(folder)) for path in folder.glob("kernels/*.cuh"))
    )
    drawn = sample(files, arguments.operator or list(OPERATORS), arguments.seed)
    if places:
        wanted = {(file, int(line)) for file, _, line in places}
        drawn = [mutant for mutant in drawn if (mutant.file, mutant.line) in wanted]
    tests = Tests(arguments.seed, arguments.budget)
    killed: dict[str, int] = defaultdict(int)
    survived: list[Mutant] = []
    left_out: dict[str, int] = defaultdict(int)
    for mutant in drawn[arguments.skip :]:
        if sum(killed.values()) + len(survived) == arguments.count:
            break
        started = time.monotonic()
        reason = "known to be equivalent" if mutant.key in EQUIVALENT else try_mutant(mutant, tests, arguments.units)
        if reason in LEFT_OUT:
            left_out[reason] += 1
            continue
        if reason:
            killed[mutant.operator] += 1
        else:
            survived.append(mutant)
        seconds = time.monotonic() - started
        print(f"{'killed  ' if reason else 'SURVIVED'} {mutant} ({seconds:.0f} s): {mutant.source_line}")
        print(f"      {reason.splitlines()[0][:200]}" if reason else difference(mutant), flush=True)
    report(killed, survived, left_out)


LEFT_OUT = (Built.BROKEN.value, Built.UNCHANGED.value, "known to be equivalent")


def try_mutant(mutant: Mutant, tests: Tests, units: int) -> str:
    """What is wrong with it; empty where it survives; one of LEFT_OUT where it is no mutant to speak of."""
    tried = 0
    for unit in tests.reached_from(mutant.file):
        trials = tests.of(unit)  # before the build: drawing them takes the unmutated library
        if not trials:
            continue  # no case reaches its rows: it can neither catch nor acquit
        built = scratch.build(mutant, unit)
        if built is Built.BROKEN:
            return built.value
        if built is Built.UNCHANGED:  # this unit does not instantiate that code
            continue
        if reason := judge.verdict(trials):
            return reason
        tried += 1
        if tried == units:
            break
    return "" if tried else Built.UNCHANGED.value


def report(killed: dict[str, int], survived: list[Mutant], left_out: dict[str, int]) -> None:
    """The score by operator and altogether."""
    print(f"\n{'operator':<22}{'killed':>8}{'of':>6}")
    for operator in OPERATORS:
        alive = sum(mutant.operator == operator for mutant in survived)
        if killed[operator] + alive:
            print(f"{operator:<22}{killed[operator]:>8}{killed[operator] + alive:>6}")
    dead = sum(killed.values())
    total = dead + len(survived)
    print(f"{'all':<22}{dead:>8}{total:>6}   {100 * dead / max(total, 1):.1f} %")
    for why, number in left_out.items():
        print(f"left out: {number} ({why})")
    for mutant in survived:
        print(f"survived: {mutant}: {mutant.source_line}")


if __name__ == "__main__":
    main()
