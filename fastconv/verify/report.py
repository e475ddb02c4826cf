"""How a verification run is shown: a table of algorithms, the misses, and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .outcomes import Outcome, Report

_HEADERS = ("backend", "op", "algorithm", "dtypes", "passed", "refused", "missed", "worst error / tolerance")


def headers(report: Report) -> tuple[str, ...]:
    """Of table_rows()."""
    return (*_HEADERS, "schedules", "times round the ring") if report.schedules else _HEADERS


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """One row for each (backend, instruction set, operator, algorithm), its dtypes together."""
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in report.outcomes:
        place = f"{outcome.backend} {outcome.isa}".strip()
        groups.setdefault((place, outcome.op, outcome.name), []).append(outcome)
    rows = []
    for (place, op, name), outcomes in sorted(groups.items()):
        ran = [o for o in outcomes if o.passed or o.failures]
        dtypes = " ".join(_short(o.dtype) for o in ran)
        counts = [sum(o.passed for o in outcomes), sum(o.refused for o in outcomes), sum(len(o.failures) for o in ran)]
        worst = max((o.worst for o in outcomes), default=0.0)
        shown = f"{worst:.2f}" if worst < 1e4 else f"{worst:.0e}"
        row = (place, op, name, dtypes, *(str(count) for count in counts), shown)
        ring = str(max(o.ring_rounds for o in outcomes))
        rows.append((*row, str(len(report.schedules)), ring) if report.schedules else row)
    return rows


def summary(report: Report) -> str:
    """One line: what ran and how it ended."""
    passed = sum(outcome.passed for outcome in report.outcomes)
    text = f"{passed} passed, {len(report.failures)} missed, over {report.cases} cases in {report.seconds:.0f} s"
    if report.never_ran:
        names = sorted({f"{o.backend} {o.op}:{o.name}" for o in report.never_ran})
        text += f"; never ran: {', '.join(names)}"
    if report.newer:
        text += f"; of newer GPUs: {', '.join(sorted(f'{op}:{name}' for op, name in report.newer))}"
    for (op, name), rounds in sorted(report.short_rings.items()):
        text += f"; {op}:{name} went round its ring {rounds} times, not {report.ring_rounds}"
    if report.kernels:
        idle = report.idle_kernels
        text += f"; {len(report.kernels) - len(idle)} of {len(report.kernels)} compiled kernels ran"
        text += f", but not {', '.join(idle)}" if idle else ""
    return text


def write_json(report: Report, path: Path, facts: dict[str, object]) -> None:
    """Writes every outcome, with what is known of the machine."""
    document = {
        "ok": report.ok,
        "summary": summary(report),
        "machine": facts,
        "outcomes": [asdict(outcome) for outcome in report.outcomes],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _short(dtype: str) -> str:
    return {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}[dtype]
