"""Measures workloads: every contender checked against float64, all timed in turn, all checked again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastconv import backends, introspection, machine
from fastconv.bench import gpu, memory, peers, timing
from fastconv.bench.operations import (
    DTYPES,
    LAYOUTS,
    OneCall,
    Operands,
    Workload,
    check,
    in_layout,
    make_operands,
    our_call,
    problem_fields,
    torch_call,
)
from fastconv.bench.results import Row
from fastconv.bench.timing import Effort, Timing
from fastconv.bench.truth import Truth, max_error

_MIB = float(1 << 20)
# Backends that run on a GPU; the others take CPU tensors.
_GPU_BACKENDS = ("cuda", "triton")


@dataclass(frozen=True)
class Settings:
    """How to measure. `algorithms` holds names to force, or None for the package's own choice."""

    backend: str = "cpu"
    layouts: tuple[str, ...] = LAYOUTS
    algorithms: tuple[str | None, ...] = (None,)
    effort: Effort = field(default_factory=Effort)
    peers: tuple[str, ...] = ("torch",)
    threads: int | None = None
    dtype: str = "float32"  # of networks; a workload has its own
    missing_peers: tuple[str, ...] = ()  # asked for, but not installed
    processes: bool = False  # whether networks are also loaded in processes of their own, for memory and first calls

    @property
    def turns(self) -> Effort:
        """The effort, in blocks where a peer has threads of its own."""
        return self.effort.for_own_threads() if peers.own_threads(self.peers) else self.effort

    @property
    def device(self) -> str:
        """Where the tensors live."""
        return "cuda" if self.backend in _GPU_BACKENDS else "cpu"

    def to_dict(self) -> dict[str, Any]:
        """For the JSON document."""
        return {
            "backend": self.backend,
            "layouts": list(self.layouts),
            "algorithms": [algo or "auto" for algo in self.algorithms],
            "peers": list(self.peers),
            "missing_peers": list(self.missing_peers),
            "dtype": self.dtype,
            "turns": "blocks" if self.turns.pause else "calls",
            "threads": self.threads or torch.get_num_threads(),
            "cache": "cold" if self.effort.cold_cache else "warm",
            "min_rounds": self.effort.min_rounds,
            "max_rounds": self.effort.max_rounds,
        }


@contextmanager
def forced_backend(name: str) -> Iterator[None]:
    """Routes CPU tensors to backend `name`, whatever FASTCONV_BACKEND says; GPU tensors need no forcing."""
    with nullcontext() if name in _GPU_BACKENDS else backends.backend(name):
        yield


@dataclass
class Contender:
    """One row in the making. A call that raises NotImplementedError leaves its reason in the row."""

    row: Row
    call: Callable[[], Any]
    note: Callable[[], str | None] = lambda: None  # what is to be said of the last call


def measure(workload: Workload, settings: Settings) -> list[Row]:
    """All rows of one workload: torch's layouts and other peers first, then ours.

    Raises:
        ValueError: the workload names an operation, dtype or activation that does not exist.
    """
    check(workload)
    base = make_operands(workload, settings.device)
    truth = Truth.of(workload, base)
    # Outside inference mode: weights made inside it carry no version and would be packed anew on each call.
    contenders = list(_contenders(workload, base, settings))
    with torch.inference_mode(), forced_backend(settings.backend), gpu.cudnn_search(settings.device):
        runnable = [contender for contender in contenders if _verify(contender, truth)]
        for contender in runnable:
            contender.row.scratch_mib = _scratch(contender, settings.device)
        calls = {str(index): contender.call for index, contender in enumerate(runnable)}
        timings = timing.interleave(calls, settings.turns, settings.device)
        for contender, measured in zip(runnable, timings.values(), strict=True):
            fill_times(contender.row, measured)
            _verify(contender, truth)
        compare([contender.row for contender in runnable], list(timings.values()))
    rows = [contender.row for contender in contenders]
    finish(rows, workload.flops(), workload.bytes(), settings)
    return rows


def _contenders(workload: Workload, base: Operands, settings: Settings) -> Iterator[Contender]:
    layouts = ("row",) if workload.op == "gemm" else LAYOUTS
    arranged = {layout: base if layout == "row" else in_layout(base, layout) for layout in layouts}
    for layout in layouts:
        yield Contender(_row(workload, layout, "torch", "eager"), torch_call(workload, arranged[layout]))
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.peers:
            if name != "torch":
                wide = base.map(torch.Tensor.float)
                layer, onnx_file = OneCall(workload, wide), Path(folder) / "layer.onnx"
                call = peers.prepare(name, layer, wide.x, workload.dtype, onnx_file)
                yield Contender(_row(workload, layouts[0], name, "one layer"), call)
    for layout in layouts:
        if layout != "row" and layout not in settings.layouts:
            continue
        for algo in settings.algorithms:
            row = _row(workload, layout, settings.backend, algo or _choice(workload, layout, settings.backend))
            yield Contender(row, our_call(workload, arranged[layout], algo))


def _choice(workload: Workload, layout: str, backend: str) -> str:
    """`auto`, with the algorithm that the package chooses where it can tell."""
    if workload.op not in introspection.OPERATORS or backend not in ("cpu", "cuda", "cuda_emulated"):
        return "auto"
    chosen = introspection.explain(workload.op, backend=backend, **problem_fields(workload, layout)).chosen
    return f"auto: {chosen}" if chosen else "auto"


def _row(workload: Workload, layout: str, backend: str, algorithm: str) -> Row:
    return Row(
        op=workload.op,
        problem=str(workload.problem),
        dtype=workload.dtype,
        layout=layout,
        backend=backend,
        algorithm=algorithm,
        group=workload.group or workload.op,
        name=workload.name or str(workload.problem),
        act=workload.act,
        batch=getattr(workload.problem, "batch", 1),
        kind=workload.kind(),
    )


def _verify(contender: Contender, truth: Truth) -> bool:
    """Runs the contender once and records its error; False where it is wrong or cannot serve the problem."""
    row = contender.row
    try:
        y = contender.call()
    except NotImplementedError as refusal:
        row.note = " ".join(str(refusal).split())
        return False
    error = max_error(y, truth.reference)
    row.max_error = max(error, row.max_error or 0.0)
    row.tolerance = truth.tolerance
    row.correct = row.correct is not False and error <= truth.tolerance
    if not row.correct:
        row.note = f"wrong: off by {error:.3g}, tolerance {truth.tolerance:.3g}"
    return row.correct


def _scratch(contender: Contender, device: str) -> float | None:
    call = contender.call
    if contender.row.backend == "cpu":
        taken = memory.workspace_bytes(call)
        return None if taken is None else taken / _MIB
    output = call()
    size = output.numel() * output.element_size()
    del output
    extra = memory.extra_memory_bytes(call, device)
    return None if extra is None else max(0, extra - size) / _MIB


def fill_times(row: Row, measured: Timing) -> None:
    """Copies a timing into its row."""
    row.median_ms, row.q20_ms, row.q80_ms = (1e3 * t for t in (measured.median, measured.q20, measured.q80))
    row.rounds = measured.rounds


def compare(rows: list[Row], timings: list[Timing]) -> None:
    """Gives our rows their rivals' times over ours, round by round."""
    for ours, our_time in zip(rows, timings, strict=True):
        if ours.is_ours:
            pairs = zip(rows, timings, strict=True)
            ours.ratios = {row.label: measured.over(our_time) for row, measured in pairs if not row.is_ours}
            ours.engine_speedup = min(
                (ours.ratios[name] for name in peers.ENGINES if name in ours.ratios), default=None
            )


def finish(rows: list[Row], flops: int, traffic: int, settings: Settings) -> None:
    """Adds what is derived from the times: rates, shares of the measured ceilings, speed-up over torch."""
    on_gpu = settings.device == "cuda"
    ceilings = gpu.ceilings() if on_gpu else machine.ceilings(settings.threads or torch.get_num_threads())
    peak, copy = ceilings.get("fma_gflops"), ceilings.get("copy_gbs")
    torch_times = [row.median_ms for row in rows if row.backend == "torch" and row.median_ms is not None]
    high_water = memory.peak_rss_bytes() / _MIB
    for row in rows:
        row.peak_memory_mib = high_water
        if row.median_ms is None:
            continue
        seconds = row.median_ms / 1e3
        row.gflops = flops / seconds / 1e9
        row.gbs = traffic / seconds / 1e9
        # The ceiling is float32's: half-precision instructions may exceed it, double precision cannot reach it.
        if isinstance(peak, float) and row.dtype in DTYPES and not row.op.endswith("pool2d"):
            row.peak_share = row.gflops / peak
        if isinstance(copy, float):
            row.copy_share = row.gbs / copy
        if torch_times and row.backend != "torch":
            row.speedup = min(torch_times) / row.median_ms
