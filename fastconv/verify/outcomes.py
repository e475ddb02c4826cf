"""What a verification run found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What one (backend, instruction set, operator, algorithm, dtype) did over its cases."""

    backend: str
    isa: str
    op: str
    algorithm: str
    dtype: str
    passed: int = 0
    idle: int = 0  # of those passed: an operand was empty, and no kernel ran
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    worst: float = 0.0  # largest error over its tolerance, 1 being the limit
    refusal: str = ""
    ring_rounds: int = 0  # of the emulated launches: how often, at most, a block has gone round its ring of stages
    kernels: list[str] = field(default_factory=list)  # of Hopper's: the instances that ran, each once

    @property
    def name(self) -> str:
        return self.algorithm or "(chosen)"

    def add(self, other: Outcome) -> None:
        """Counts another share of the cases in."""
        self.passed += other.passed
        self.idle += other.idle
        self.refused += other.refused
        self.failures += other.failures
        self.worst = max(self.worst, other.worst)
        self.refusal = self.refusal or other.refusal
        self.ring_rounds = max(self.ring_rounds, other.ring_rounds)
        self.kernels = sorted({*self.kernels, *other.kernels})


Outcomes = dict[tuple[str, ...], Outcome]


@dataclass
class Report:
    """All outcomes of a run."""

    outcomes: list[Outcome]
    cases: int
    seconds: float
    quick: bool = False  # a sample in one dtype: some algorithms have no case in it
    schedules: tuple[str, ...] = ()  # of the emulator, under each of which every case ran
    ring_rounds: int = 0  # that every algorithm's kernels have to make
    newer: frozenset[tuple[str, str]] = frozenset()  # (operator, algorithm) that the emulated GPU is too old for
    kernels: frozenset[str] = frozenset()  # compiled instances of kernels, all of which have to run

    @property
    def failures(self) -> list[str]:
        """One text for each comparison that missed."""
        return [text for outcome in self.outcomes for text in outcome.failures]

    @property
    def never_ran(self) -> list[Outcome]:
        """Algorithms that no case of any dtype reached with anything to compute: a table row that nothing tests."""
        ran = {(o.backend, o.isa, o.op, o.algorithm) for o in self.outcomes if o.passed > o.idle or o.failures}
        expected = [o for o in self.outcomes if (o.op, o.algorithm) not in self.newer]
        return [o for o in expected if (o.backend, o.isa, o.op, o.algorithm) not in ran]

    @property
    def short_rings(self) -> dict[tuple[str, str], int]:
        """(operator, algorithm) whose kernels went round their rings too seldom, and how often they did."""
        rounds: dict[tuple[str, str], int] = {}
        for o in self.outcomes:
            rounds[o.op, o.algorithm] = max(rounds.get((o.op, o.algorithm), 0), o.ring_rounds)
        return {row: made for row, made in rounds.items() if made < self.ring_rounds}

    @property
    def idle_kernels(self) -> list[str]:
        """Compiled instances of kernels that no case reached."""
        return sorted(self.kernels - {kernel for outcome in self.outcomes for kernel in outcome.kernels})

    @property
    def ok(self) -> bool:
        """Whether every comparison passed and every algorithm ran; of a quick run, whether anything did."""
        ran = any(outcome.passed for outcome in self.outcomes) if self.quick else not self.never_ran
        return bool(self.outcomes) and not self.failures and ran and not self.short_rings and not self.idle_kernels


def merge(shares: Iterable[Outcomes]) -> Outcomes:
    """The outcomes of several shares of the cases as if one process had run them all."""
    outcomes: Outcomes = {}
    for share in shares:
        for key, outcome in share.items():
            if key in outcomes:
                outcomes[key].add(outcome)
            else:
                outcomes[key] = outcome
    return outcomes
