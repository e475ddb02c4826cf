"""A run of the zoo as a table for the terminal, an HTML report, and the table in docs/performance.md."""

from __future__ import annotations

from collections import Counter

from fastconv import html
from fastconv.bench.zoo.runner import ZooRow, ZooRun
from fastconv.html.facts import fact_rows

HEADERS = ("network", "from", "kernels", "layers", "fused", "left", "off: convert", "replace", "torch", "x convert",
           "x replace", "")  # fmt: skip


def table_rows(rows: list[ZooRow]) -> list[tuple[str, ...]]:
    """One line a network."""
    return [
        (
            row.name,
            row.source,
            str(row.kernels),
            str(row.layers),
            str(row.fused),
            str(row.left),
            html.tiny(row.convert_error),
            html.tiny(row.replace_error),
            html.tiny(row.torch_error),
            _times(row.convert_speedup),
            _times(row.replace_speedup),
            "MISS" if row.problems else "ok",
        )
        for row in rows
    ]


def reasons(rows: list[ZooRow]) -> list[tuple[str, str, int, int]]:
    """What is left to torch in the whole zoo, most frequent first: operation, why, how often, in how many networks."""
    total: Counter[tuple[str, str]] = Counter()
    networks: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for operation, why, count in row.reasons:
            total[operation, why] += count
            networks[operation, why] += 1
    return [(*key, count, networks[key]) for key, count in total.most_common()]


def reason_lines(row: ZooRow) -> list[str]:
    """A network's own reasons."""
    return [f"{count} x {operation}: {why}" for operation, why, count in row.reasons]


def build_report(run: ZooRun, command: str) -> str:
    """The whole report as HTML."""
    context = {
        "run": run,
        "summary": run.summary()[0],
        "plot": _plot(run.rows),
        "reasons": reasons(run.rows),
        "reason_lines": {row.name: reason_lines(row) for row in run.rows},
        "facts": [*fact_rows(run.machine, run.versions), ("threads", str(run.settings["threads"]))],
        "command": command,
        "created": run.created.replace("T", " "),
    }
    return html.render("zoo.html.j2", context)


def _plot(rows: list[ZooRow]) -> str:
    """Speed of both stand-ins, one bar and one mark a network."""
    timed = sorted(
        (row for row in rows if row.convert_speedup), key=lambda row: row.convert_speedup or 0.0, reverse=True
    )
    figure, axes = html.new_figure(9.6, 0.7 + 0.2 * len(timed))
    for position, row in enumerate(timed):
        ratio = row.convert_speedup or 0.0
        axes.barh(position, ratio, height=0.74, color=html.OURS if ratio >= 1 else html.ALERT)
        axes.annotate(f"{ratio:.2f}", (ratio, position), (4, -3), textcoords="offset points", fontsize=7.5)
        axes.plot([row.replace_speedup], [position], "|", color="#1f2328", markersize=7, markeredgewidth=1.6)
    axes.axvline(1, color="#1f2328", linewidth=1)
    axes.set_yticks(range(len(timed)), [row.name for row in timed], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("times as fast as torch's better layout: bars convert, marks replace (line: equal)", fontsize=9)
    return html.figure_uri(figure)


def markdown(run: ZooRun) -> str:
    """The table of docs/performance.md."""
    line = run.summary()[0]
    head = (
        f"Measured on {run.machine['cpu']} ({run.machine['cores']} cores), {run.settings['threads']} threads, "
        f"torch {run.versions['torch']}: {line['networks']} networks, {line['layers']} layers in {line['kernels']} "
        f"kernels, {line['left']} operations left to torch, {line['misses']} misses; geometric mean "
        f"{_times(line['convert_speedup'])}x after convert, {_times(line['replace_speedup'])}x after replace."
    )
    titles = ("network", "from", "special", "image", "kernels (fused) for layers", "left", "error / torch's")
    lines = [head, "", f"| {' | '.join(titles)} | convert | replace |", "|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for row in run.rows:
        error = row.convert_error / row.torch_error if row.torch_error else 0.0
        cells = [row.name, row.source, row.traits, row.image, f"{row.kernels} ({row.fused}) for {row.layers}"]
        cells += [str(row.left), f"{error:.1f}", f"{_times(row.convert_speedup)}×", f"{_times(row.replace_speedup)}×"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
