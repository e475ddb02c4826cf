"""A run as an HTML report with plots."""

from __future__ import annotations

from typing import Any

from fastconv import html
from fastconv.bench import tables
from fastconv.bench.results import Row, Run, best_of_ours, same_problem
from fastconv.html.facts import fact_rows

_TITLES = {
    "layers": "Convolution layers",
    "ops": "Operations",
    "networks": "Whole networks",
    "filters": "Large filters",
    "scaling": "Threads",
    "training": "Training whole networks",
}
# Behind the text of a plot, so that grid and reference lines do not cross it.
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def build_report(run: Run, command: str) -> str:
    """The whole report as HTML."""
    context = {
        "run": run,
        "title": _title(run.suite),
        "summary": run.summary(),
        "groups": [_group(run, group) for group in dict.fromkeys(row.group for row in run.rows)],
        "time_plot": _network_plot(run) if run.suite.startswith(("networks", "scaling")) else None,
        "engines": run.against_engines(),
        "aims": tables.aim_lines(run),
        "peak_memory": max((row.peak_memory_mib or 0.0 for row in run.rows), default=0.0),
        "facts": [*fact_rows(run.machine, run.versions), *_settings(run)],
        "command": command,
        "created": run.created.replace("T", " "),
    }
    return html.render("bench.html.j2", context)


def _title(suite: str) -> str:
    name, _, dtype = suite.partition("-")
    return _TITLES.get(name, name) + (f", {dtype}" if dtype else "")


def _settings(run: Run) -> list[tuple[str, str]]:
    """How it was measured, as rows of the closing table."""
    shown = ("backend", "threads", "dtype", "layouts", "algorithms", "peers", "missing_peers", "turns", "cache")
    values = {key: run.settings[key] for key in shown if run.settings.get(key)}
    return [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in values.items()]


def _group(run: Run, group: str) -> dict[str, Any]:
    rows = [row for row in run.rows if row.group == group]
    best = best_of_ours(rows)
    return {
        "name": group,
        "rows": rows,
        "plot": _speedup_plot(best) if best else None,
        "best": {id(row) for row in best},
    }


def _speedup_plot(best: list[Row]) -> str:
    """Bars of torch's better time over ours, with the share of the limit that binds beside each."""
    figure, axes = html.new_figure(9.6, 0.55 + 0.29 * len(best))
    for position, row in enumerate(best):
        ratio = row.speedup or 0.0
        axes.barh(position, ratio, height=0.74, color=html.OURS if ratio >= 1 else html.ALERT)
        notes = [f"{ratio:.2f}×"]
        if row.peak_share is not None and row.peak_share >= (row.copy_share or 0.0):
            notes.append(f"{100 * row.peak_share:.0f} % of peak")
        elif row.copy_share is not None:
            notes.append(f"{row.gbs:.0f} GB/s, {100 * row.copy_share:.0f} % of copy")
        if row.engine_speedup is not None:
            axes.plot([row.engine_speedup], [position], "D", color=html.PEER, markersize=5.5, markeredgecolor="white")
        axes.annotate(
            "   ".join(notes),
            (max(ratio, row.engine_speedup or 0.0), position),
            (5, -3),
            textcoords="offset points",
            fontsize=8.5,
            bbox=_PLATE,
        )
    axes.axvline(1, color="#1f2328", linewidth=1)
    axes.set_yticks(range(len(best)), [row.name for row in best])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max([1.0, *(row.speedup or 0.0 for row in best)]))
    marks = "; diamonds: as the better of onnxruntime and OpenVINO" if any(row.engine_speedup for row in best) else ""
    axes.set_xlabel(f"times as fast as torch's better layout (line: equal){marks}", fontsize=9)
    return html.figure_uri(figure)


def _network_plot(run: Run) -> str:
    """Every network and batch in a line of its own: each contender's time over our best, on a logarithmic axis."""
    best = best_of_ours(run.rows)
    figure, axes = html.new_figure(9.6, 1.2 + 0.3 * len(best))
    drawn: dict[str, Any] = {}
    for position, ours in enumerate(best):
        axes.axhline(position, color="#eef0f2", linewidth=1, zorder=0)
        for row in run.rows:
            if row.median_ms is None or ours.median_ms is None or not same_problem(row, ours) or row.is_ours:
                continue
            marker, colour, label = _mark(row)
            ratio = row.median_ms / ours.median_ms
            (drawn[label],) = axes.plot([ratio], [position], marker, color=colour, markersize=7, linestyle="none")
    axes.axvline(1, color=html.OURS, linewidth=2, zorder=1)
    axes.set_yticks(
        range(len(best)), [f"{row.name}, {row.group}: {row.median_ms or 0.0:.3g} ms" for row in best], fontsize=8.5
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time over fastconv's (line); right of it: slower", fontsize=9)
    if drawn:
        axes.legend(
            drawn.values(), drawn.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=len(drawn), frameon=False,
            fontsize=8.5, handletextpad=0.2,
        )  # fmt: skip
    return html.figure_uri(figure)


def _mark(row: Row) -> tuple[str, str, str]:
    """Marker, colour and name of a rival."""
    marks = {
        "torch": ("o", html.TORCH, "torch NCHW")
        if row.layout == "nchw"
        else ("o", html.TORCH_2, "torch channels_last"),
        "inductor": ("s", "#009e73", "torch.compile"),
        "onnxruntime": ("D", html.PEER, "onnxruntime"),
        "openvino": ("^", html.ALERT, "OpenVINO"),
    }
    return marks.get(row.backend, ("x", html.OURS, row.backend))
