"""A run as an HTML report with plots, and as the table in the README."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastconv import html
from fastconv.bench.results import Row, Run, best_of_ours
from fastconv.html.facts import fact_rows

_TITLES = {
    "layers": "Convolution layers",
    "ops": "Operations",
    "networks": "Whole networks",
    "training": "Training whole networks",
}
# Behind the text of a plot, so that grid and reference lines do not cross it.
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def build_report(run: Run, command: str) -> str:
    """The whole report as HTML."""
    context = {
        "run": run,
        "title": _TITLES.get(run.suite, run.suite),
        "summary": run.summary(),
        "groups": [_group(run, group) for group in dict.fromkeys(row.group for row in run.rows)],
        "time_plot": _network_plot(run) if run.suite == "networks" else None,
        "peak_memory": max((row.peak_memory_mib or 0.0 for row in run.rows), default=0.0),
        "facts": [*fact_rows(run.machine, run.versions), *_settings(run)],
        "command": command,
        "created": run.created.replace("T", " "),
    }
    return html.render("bench.html.j2", context)


def _settings(run: Run) -> list[tuple[str, str]]:
    """How it was measured, as rows of the closing table."""
    shown = ("backend", "threads", "layouts", "algorithms", "peers", "cache")
    values = {key: run.settings[key] for key in shown if key in run.settings}
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
        axes.annotate(
            "   ".join(notes), (ratio, position), (5, -3), textcoords="offset points", fontsize=8.5, bbox=_PLATE
        )
    axes.axvline(1, color="#1f2328", linewidth=1)
    axes.set_yticks(range(len(best)), [row.name for row in best])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max([1.0, *(row.speedup or 0.0 for row in best)]))
    axes.set_xlabel("times as fast as torch's better layout (line: equal)", fontsize=9)
    return html.figure_uri(figure)


def _network_plot(run: Run) -> str:
    """Milliseconds an image of every network and contender."""
    networks = list(dict.fromkeys((row.name, row.group) for row in run.rows))
    count = sum(row.median_ms is not None for row in run.rows)
    figure, axes = html.new_figure(9.6, 0.5 + 0.24 * count + 0.2 * len(networks))
    ticks, labels, position = [], [], 0.0
    for name, group in networks:
        for row in run.rows:
            if (row.name, row.group) != (name, group) or row.median_ms is None:
                continue
            a_image = row.median_ms / row.batch
            axes.barh(position, a_image, height=0.84, color=_colour(row))
            axes.annotate(f"{a_image:.2f}", (a_image, position), (4, -3), textcoords="offset points", fontsize=8)
            ticks.append(position)
            labels.append(f"{name}, {group}: {row.backend} {row.layout}")
            position += 1
        position += 0.8
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds an image", fontsize=9)
    return html.figure_uri(figure)


def _colour(row: Row) -> str:
    if row.is_ours:
        return html.OURS
    if row.backend != "torch":
        return html.PEER
    return html.TORCH if row.layout == "nchw" else html.TORCH_2


# ---- README ------------------------------------------------------------------------------------------------------


def readme_table(run: Run) -> str:
    """The run as a Markdown table, the machine named above it."""
    cores = run.machine["cores"]
    threads = run.settings["threads"]
    isa = f", {run.machine['isa']}" if run.machine.get("isa") else ""
    lines = [f"Measured on {run.machine['cpu']} ({cores} cores{isa}), {threads} threads, torch {run.versions['torch']}"]
    peak = run.ceilings.get("fma_gflops")
    lines[0] += f"; FMA peak {peak:.0f} GFLOP/s." if peak else "."
    lines += ["", "| | torch NCHW, ms | torch channels_last, ms | fastconv, ms | faster | share of peak |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for ours in best_of_ours(run.rows):
        peers = [row for row in run.rows if row.backend == "torch" and _same_problem(row, ours)]
        times = {row.layout: row.median_ms for row in peers}
        label = f"{ours.name}, {ours.group}" if run.suite == "networks" else f"{ours.group} {ours.name}"
        cells = [label, _ms(times.get("nchw")), _ms(times.get("nhwc")), _ms(ours.median_ms)]
        cells += [f"{ours.speedup:.2f}×" if ours.speedup else "–", html.percent(ours.peak_share)]
        lines.append("| " + " | ".join(cells) + " |")
    for line in run.summary():
        name = f"**{line['group']}, geometric mean of {line['problems']}**"
        lines.append(f"| {name} | | | | **{line['geomean_speedup']:.2f}×** | |")
    return "\n".join(lines)


def _same_problem(a: Row, b: Row) -> bool:
    return (a.group, a.name, a.problem, a.batch) == (b.group, b.name, b.problem, b.batch)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def update_readme(path: Path, run: Run) -> None:
    """Replaces what stands between `<!-- bench:SUITE -->` and `<!-- /bench -->`.

    Raises:
        ValueError: the file has no such pair of markers.
    """
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- bench:{re.escape(run.suite)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    table = readme_table(run)
    updated, count = pattern.subn(lambda m: f"{m.group(1)}{table}\n{m.group(2)}", text)
    if not count:
        raise ValueError(f"{path.name}: expected markers <!-- bench:{run.suite} --> and <!-- /bench -->")
    path.write_text(updated, encoding="utf-8")


def table_rows(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """What the terminal shows of rows."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        if row.median_ms is None:
            lines.append(
                (
                    row.name,
                    row.layout,
                    row.backend,
                    row.algorithm,
                    "–",
                    "",
                    "",
                    "",
                    "",
                    "",
                    "refused" if row.correct is None else "WRONG",
                )
            )
            continue
        spread = f"{row.q20_ms:.3f}–{row.q80_ms:.3f}"
        lines.append(
            (
                row.name,
                row.layout,
                row.backend,
                row.algorithm,
                f"{row.median_ms:.3f}",
                spread,
                html.number(row.gflops),
                html.percent(row.peak_share),
                html.number(row.gbs),
                f"{row.speedup:.2f}" if row.speedup else "",
                html.tiny(row.max_error) + (" WRONG" if row.correct is False else ""),
            )
        )
    return lines


def notes(rows: Iterable[Row]) -> list[str]:
    """Why rows have no time, one line for each algorithm and reason."""
    return list(dict.fromkeys(f"{row.algorithm}: {row.note}" for row in rows if row.note and row.correct is None))


TABLE_HEADERS = (
    "problem",
    "layout",
    "backend",
    "algorithm",
    "ms",
    "20–80 %",
    "GFLOP/s",
    "of peak",
    "GB/s",
    "x torch",
    "off",
)
