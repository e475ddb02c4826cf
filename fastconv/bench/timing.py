"""Interleaved timing.

Contenders are timed in turn, round after round, so that a slow spell of a shared machine falls on all of them alike;
what is reported is the median over the rounds with its 20 % and 80 % quantiles, and ratios within each round.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from fastconv.bench import gpu

Call = Callable[[], object]

# A sample shorter than this is mostly clock resolution and scheduler noise, so short calls are repeated within one.
_SAMPLE_SECONDS = 1e-3
# On a GPU each call of a sample is timed by itself; more of them only take longer.
_GPU_REPEATS = 5
# Larger than the second-level caches of current CPUs; a last-level cache shared by a whole server is not
# something one process can flush.
_FLUSH_BYTES = 96 << 20
# Engines with threads of their own cannot take turns call by call: after a call the threads of the last engine go on
# spinning on the cores that the next one needs, so that each is timed on half a machine. Measured on two cores:
# onnxruntime's spin for 20 to 40 ms, libgomp's (torch's and ours) for 2 to 5, OpenVINO's for less than 2. So turns are
# blocks: a pause until the last engine's threads sleep, one call that wakes the next one's, then the measured calls.
_POOL_PAUSE = 0.05
_POOL_BLOCK = 0.03
_MAX_BLOCK_SAMPLES = 20
# A call so long hides its threads' waking and averages over slow spells by itself: it needs no call before the
# measured ones, and fewer rounds.
_LONG_CALL, _LONG_CALL_ROUNDS = 0.25, 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quantiles over the samples, of `repeats` calls each, of `rounds` rounds."""

    median: float
    q20: float
    q80: float
    rounds: int
    repeats: int
    by_round: tuple[float, ...] = ()

    @classmethod
    def from_rounds(cls, rounds: list[list[float]], repeats: int) -> Timing:
        """Summarises seconds-per-call samples, a list of them for each round."""
        ordered = sorted(sample for samples in rounds for sample in samples)
        last = len(ordered) - 1
        return cls(
            median=statistics.median(ordered),
            q20=ordered[round(0.2 * last)],
            q80=ordered[round(0.8 * last)],
            rounds=len(rounds),
            repeats=repeats,
            by_round=tuple(statistics.median(samples) for samples in rounds),
        )

    def over(self, other: Timing) -> float:
        """The median over the rounds of this one's time divided by the other's in the same round."""
        return statistics.median(a / b for a, b in zip(self.by_round, other.by_round, strict=True))


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds go on until `seconds` per contender are spent, within the two limits; five are enough
    where every call takes a quarter second.

    A turn is one sample, or with `pause` as many as fill `block` seconds, behind a pause and, unless calls are long, an
    unmeasured one.
    """

    seconds: float = 0.5
    min_rounds: int = 9
    max_rounds: int = 200
    cold_cache: bool = False
    pause: float = 0.0
    block: float = 0.0

    def for_own_threads(self) -> Effort:
        """The same where contenders bring threads of their own, which spin for a while after each call.

        Pauses take longer than what is measured, and a block holds many samples: ten rounds say as much as sixteen.
        """
        return replace(self, seconds=min(self.seconds, 0.3), pause=_POOL_PAUSE, block=_POOL_BLOCK)

    @classmethod
    def quick(cls, cold_cache: bool = False) -> Effort:
        """The effort of `--quick`: enough to see that everything runs, too little for a published number."""
        return cls(seconds=0.05, min_rounds=3, max_rounds=5, cold_cache=cold_cache)


def interleave(contenders: Mapping[str, Call], effort: Effort, device: str = "cpu") -> dict[str, Timing]:
    """Times every contender in turn, `rounds` times, starting each round with another one.

    Args:
        contenders: name -> a call without arguments that does the work once.
        effort: how many rounds, and whether caches are flushed before each sample (then a sample is one call).
        device: "cuda" goes by the GPU's own clock, always with a cold L2 cache (gpu.py).

    Returns:
        name -> Timing, in the order of `contenders`.
    """
    if not contenders:
        return {}
    cold = effort.cold_cache and device == "cpu"
    flush = torch.empty(_FLUSH_BYTES // 4, dtype=torch.float32) if cold else None
    estimates = {name: warm_up(call, device) for name, call in contenders.items()}
    repeats = {
        name: 1 if flush is not None else max(1, min(1000, int(_SAMPLE_SECONDS / max(seconds, 1e-7))))
        for name, seconds in estimates.items()
    }
    turns = {
        name: max(1, min(_MAX_BLOCK_SAMPLES, round(effort.block / max(seconds * repeats[name], 1e-7))))
        for name, seconds in estimates.items()
    }
    round_seconds = sum(estimates[name] * repeats[name] * turns[name] for name in contenders)
    wanted = int(effort.seconds * len(contenders) / max(round_seconds, 1e-9))
    long = min(estimates.values()) >= _LONG_CALL
    fewest = min(effort.min_rounds, _LONG_CALL_ROUNDS) if long else effort.min_rounds
    rounds = max(fewest, min(effort.max_rounds, wanted))
    names = list(contenders)
    samples: dict[str, list[list[float]]] = {name: [] for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            if effort.pause:
                time.sleep(effort.pause)
                if not long:
                    contenders[name]()
            turn = []
            for _ in range(turns[name]):
                if flush is not None:
                    flush.fill_(float(index))
                turn.append(_sample(contenders[name], repeats[name], device))
            samples[name].append(turn)
    return {name: Timing.from_rounds(samples[name], repeats[name]) for name in names}


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of the ratios that are there; None where none is."""
    known = [ratio for ratio in ratios if ratio is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def warm_up(call: Call, device: str) -> float:
    """Runs `call` until it has settled (weights packed, memory mapped, code paged in); returns its seconds."""
    call()
    best = float("inf")
    started = time.perf_counter()
    for _ in range(10):
        best = min(best, _sample(call, 1, device))
        if time.perf_counter() - started > 0.2:
            break
    return best


def _sample(call: Call, repeats: int, device: str) -> float:
    if device == "cuda":
        return gpu.sample(call, min(repeats, _GPU_REPEATS))
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
