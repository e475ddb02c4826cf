"""A benchmark run as data: rows, the circumstances they were measured in, and the files both are kept in."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastconv import machine as this_machine
from fastconv.backends import BACKENDS
from fastconv.bench.timing import geometric_mean

SCHEMA = 1
# The backend of our own float32 rows beside bfloat16: the best of ours is not chosen from them.
OURS_IN_FLOAT32 = "fastconv float32"


@dataclass
class Row:
    """One contender on one problem. Times are milliseconds; `speedup` is the better torch layout's time over ours."""

    op: str
    problem: str
    dtype: str
    layout: str
    backend: str  # a fastconv backend, or the peer's name
    algorithm: str
    group: str = ""
    name: str = ""
    act: str = "identity"
    direction: str = "forward"
    batch: int = 1
    median_ms: float | None = None
    q20_ms: float | None = None
    q80_ms: float | None = None
    rounds: int = 0
    gflops: float | None = None
    gbs: float | None = None
    peak_share: float | None = None
    copy_share: float | None = None
    speedup: float | None = None
    max_error: float | None = None
    tolerance: float | None = None
    correct: bool | None = None
    scratch_mib: float | None = None  # ours by the kernels' own count, peers' by resident memory less the output
    peak_memory_mib: float | None = None
    kind: str = ""  # of layer: summarised across the groups
    # Each rival's time over ours, of the same round, the median over the rounds; `engine_speedup` is the least of the
    # engines' that networks are deployed with.
    ratios: dict[str, float] = field(default_factory=dict)
    engine_speedup: float | None = None
    scaling: float | None = None  # the same engine's time on one thread over this one on all
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether a fastconv backend (and not a peer) is measured."""
        return self.backend in BACKENDS

    @property
    def label(self) -> str:
        """The contender's name among the rows of its problem."""
        return f"{self.backend} {self.layout}" if self.backend == "torch" else self.backend


@dataclass
class Residence:
    """An engine with a network in a process of its own: memory in MiB, loading in seconds, calls in milliseconds."""

    name: str
    batch: int
    dtype: str
    engine: str
    prepare_s: float | None = None
    first_ms: float | None = None
    later_ms: float | None = None
    peak_mib: float | None = None  # beyond the engine with a network of one layer, as the next
    resident_mib: float | None = None
    baseline_mib: float | None = None
    weights_mib: float | None = None  # packed, by our own count, as the next two
    folded_mib: float | None = None
    arena_mib: float | None = None
    note: str = ""

    @property
    def first_over_later(self) -> float | None:
        """How many times as long as a later call the first one takes."""
        return self.first_ms / self.later_ms if self.first_ms and self.later_ms else None


@dataclass
class Run:
    """Everything one invocation of `fastconv bench` measured."""

    suite: str
    settings: dict[str, Any]
    ceilings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    residences: list[Residence] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=this_machine.describe)
    versions: dict[str, Any] = field(default_factory=this_machine.versions)
    created: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    )

    @property
    def failures(self) -> list[Row]:
        """Rows whose output was wrong before or after timing."""
        return [row for row in self.rows if row.correct is False]

    def summary(self) -> list[dict[str, Any]]:
        """One line a group: speed-ups of the best of our rows on each problem over torch's better layout."""
        lines = []
        for group in dict.fromkeys(row.group for row in self.rows):
            best = best_of_ours(row for row in self.rows if row.group == group)
            ratios = [row.speedup for row in best if row.speedup is not None]
            if not ratios:
                continue
            shares = [row.peak_share for row in best if row.peak_share is not None]
            copies = [row.copy_share for row in best if row.copy_share is not None]
            lines.append(
                {
                    "group": group,
                    "problems": len(ratios),
                    "geomean_speedup": geometric_mean(ratios),
                    "min_speedup": min(ratios),
                    "max_speedup": max(ratios),
                    "slower_than_torch": sum(ratio < 1 for ratio in ratios),
                    "min_peak_share": min(shares, default=None),
                    "max_peak_share": max(shares, default=None),
                    "max_copy_share": max(copies, default=None),
                }
            )
        return lines

    def against_engines(self) -> list[dict[str, Any]]:
        """Our best row of each problem against the better of onnxruntime and OpenVINO: a line for each kind of layer or
        batch, and one over everything where there are several."""
        best = [row for row in best_of_ours(self.rows) if row.engine_speedup is not None]
        kinds = dict.fromkeys(row.kind or row.group for row in best)
        parts = {kind: [row for row in best if (row.kind or row.group) == kind] for kind in kinds}
        if len(parts) > 1:
            parts["all"] = best
        lines = []
        for name, rows in parts.items():
            worst = min(rows, key=lambda row: row.engine_speedup or 0.0)
            lines.append(
                {
                    "part": name,
                    "problems": len(rows),
                    "geomean": geometric_mean(row.engine_speedup for row in rows),
                    "worst": worst.engine_speedup,
                    "worst_problem": f"{worst.name}, {worst.group}",
                    "behind": sum((row.engine_speedup or 0.0) < 1 for row in rows),
                }
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "created": self.created,
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "ceilings": self.ceilings,
            "summary": self.summary(),
            "against_engines": self.against_engines(),
            "rows": [asdict(row) for row in self.rows],
            "residences": [asdict(residence) for residence in self.residences],
        }

    def write_json(self, path: Path) -> None:
        """Writes the JSON document; infinities and NaNs, which JSON lacks, become null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_finite(self.to_dict()), indent=1) + "\n", encoding="utf-8")


def best_of_ours(rows: Iterable[Row]) -> list[Row]:
    """Our fastest correct row of each problem, in the order the problems were measured."""
    best: dict[tuple[str, str, str, int], Row] = {}
    for row in rows:
        if not row.is_ours or row.median_ms is None or row.correct is False:
            continue
        key = (row.group, row.name, row.problem, row.batch)
        if key not in best or row.median_ms < (best[key].median_ms or math.inf):
            best[key] = row
    return list(best.values())


def same_problem(a: Row, b: Row) -> bool:
    """Whether two contenders did the same work."""
    return (a.group, a.name, a.problem, a.batch) == (b.group, b.name, b.problem, b.batch)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checkout_root(start: Path | None = None) -> Path | None:
    """The repository root, where the working directory lies inside a checkout of this project."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "bench").is_dir() and (folder / "csrc").is_dir() and (folder / "fastconv").is_dir():
            return folder
    return None


def default_folder() -> Path:
    """`bench/results/<machine>` of the checkout we are in, or `fastconv-results` here."""
    root = checkout_root()
    return root / "bench" / "results" / this_machine.slug() if root else Path.cwd() / "fastconv-results"
