"""Interleaved timing and peak memory, the two measurements every benchmark row is made of.

Contenders are timed in turn, round after round, so that a slow spell of a shared machine falls on all of them alike;
what is reported is the median over the rounds with its 20 % and 80 % quantiles.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quantiles over `rounds` samples of `repeats` calls each."""

    median: float
    q20: float
    q80: float
    rounds: int
    repeats: int

    @classmethod
    def from_samples(cls, samples: list[float], repeats: int) -> Timing:
        """Summarises seconds-per-call samples."""
        ordered = sorted(samples)
        last = len(ordered) - 1
        return cls(
            median=statistics.median(ordered),
            q20=ordered[round(0.2 * last)],
            q80=ordered[round(0.8 * last)],
            rounds=len(ordered),
            repeats=repeats,
        )


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds go on until `seconds` per contender are spent, within the two limits."""

    seconds: float = 0.5
    min_rounds: int = 9
    max_rounds: int = 200
    cold_cache: bool = False

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
    estimates = {name: _warm_up(call, device) for name, call in contenders.items()}
    repeats = {
        name: 1 if flush is not None else max(1, min(1000, int(_SAMPLE_SECONDS / max(seconds, 1e-7))))
        for name, seconds in estimates.items()
    }
    round_seconds = sum(estimates[name] * repeats[name] for name in contenders)
    wanted = int(effort.seconds * len(contenders) / max(round_seconds, 1e-9))
    rounds = max(effort.min_rounds, min(effort.max_rounds, wanted))
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            if flush is not None:
                flush.fill_(float(index))
            samples[name].append(_sample(contenders[name], repeats[name], device))
    return {name: Timing.from_samples(samples[name], repeats[name]) for name in names}


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of the ratios that are there; None where none is."""
    known = [ratio for ratio in ratios if ratio is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def _warm_up(call: Call, device: str) -> float:
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


def peak_rss_bytes() -> int:
    """The process's resident-memory high-water mark."""
    status = _read("/proc/self/status")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # bytes on macOS, KiB elsewhere


def extra_memory_bytes(call: Call, device: str = "cpu") -> int | None:
    """How far resident memory (device memory on a GPU) rises above where it stood while `call` runs once.

    The output counts, and so does scratch. None where the system cannot reset its high-water mark (only Linux can).
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    # Memory freed earlier but still held by malloc would hide what the call takes; hand it back first.
    _trim_heap()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM to the current VmRSS
    except OSError:
        return None
    before = peak_rss_bytes()
    call()
    return max(0, peak_rss_bytes() - before)


def workspace_bytes(call: Call) -> int | None:
    """Scratch that our kernels take while `call` runs once, by their own account; None without the extension."""
    try:
        from fastconv import _C
    except ImportError:
        return None
    _C.reset_peak_workspace_bytes()
    call()
    return int(_C.peak_workspace_bytes())


def _trim_heap() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not glibc: the figure is then a lower bound
        ctypes.CDLL(None).malloc_trim(0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
