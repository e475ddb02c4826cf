"""A run as the tables of the terminal and of the project's documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastconv import html
from fastconv.bench.peers import ENGINES
from fastconv.bench.results import OURS_IN_FLOAT32, Residence, Row, Run, best_of_ours, same_problem

ENGINE_TITLES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "inductor": "torch.compile", "torch": "torch"}


def document_table(run: Run) -> str:
    """The run as a Markdown table, the machine named above it."""
    cores = run.machine["cores"]
    threads = run.settings["threads"]
    isa = f", {run.machine['isa']}" if run.machine.get("isa") else ""
    lines = [f"Measured on {run.machine['cpu']} ({cores} cores{isa}), {threads} threads, {_versions(run)}"]
    peak = run.ceilings.get("fma_gflops")
    lines[0] += f"; FMA peak {peak:.0f} GFLOP/s." if peak else "."
    present = {row.backend for row in run.rows if row.median_ms is not None}
    # Torch's layouts are told apart where nothing else stands beside them.
    engines = [name for name in (*ENGINES, "inductor") if name in present]
    torch_titles = ["torch, ms"] if engines else ["torch NCHW, ms", "torch channels_last, ms"]
    titles = [*torch_titles, *(f"{ENGINE_TITLES[name]}, ms" for name in engines), "fastconv, ms"]
    titles += ["x torch", "x better engine"] if set(engines) & set(ENGINES) else ["faster"]
    titles.append("share of peak")
    lines += ["", f"| | {' | '.join(titles)} |", "|---|" + "--:|" * len(titles)]
    for ours in best_of_ours(run.rows):
        rivals = [row for row in run.rows if same_problem(row, ours)]
        torchs = {row.layout: row.median_ms for row in rivals if row.backend == "torch"}
        others = {row.backend: row.median_ms for row in rivals}
        label = f"{ours.name}, {ours.group}" if run.suite.startswith("networks") else f"{ours.group} {ours.name}"
        known = [time for time in torchs.values() if time is not None]
        times = [min(known, default=None)] if engines else [torchs.get("nchw"), torchs.get("nhwc")]
        times += [others.get(name) for name in engines]
        cells = [label, *map(_ms, times), _ms(ours.median_ms), _times(ours.speedup)]
        if set(engines) & set(ENGINES):
            cells.append(_times(ours.engine_speedup))
        cells.append(html.percent(ours.peak_share))
        lines.append(_line(cells))
    # Not under the table of the README's first screen; the table of memory has what they say.
    aims = [] if run.suite == "networks" else [f"- {line}" for line in aim_lines(run)]
    means = _means(run, len(titles), bool(set(engines) & set(ENGINES)))
    return "\n".join([*lines, *means, *(["", *aims] if aims else [])])


def _versions(run: Run) -> str:
    names = [name for name in ("torch", *ENGINES) if run.versions.get(name)]
    used = [name for name in names if name == "torch" or any(row.backend == name for row in run.rows)]
    return ", ".join(f"{ENGINE_TITLES[name]} {run.versions[name]}" for name in used)


def _means(run: Run, columns: int, with_engines: bool) -> Iterator[str]:
    """The lines that close the table: geometric means a group or kind, and over everything."""
    blank = [""] * (columns - (3 if with_engines else 2))
    against = {line["part"]: line for line in run.against_engines()} if with_engines else {}
    for line in run.summary():
        speeds = [f"**{_times(line['geomean_speedup'])}**"]
        if with_engines:
            engine = against.pop(line["group"], None)
            speeds.append(f"**{_times(engine['geomean'])}**" if engine else "")
        yield _line([f"**{line['group']}, geometric mean of {line['problems']}**", *blank, *speeds, ""])
    for part, line in against.items():
        worst = f"least {_times(line['worst'])}, {line['worst_problem']}"
        text = f"**{part}, geometric mean of {line['problems']}; {worst}**"
        yield _line([text, *blank, "", f"**{_times(line['geomean'])}**", ""])


def _line(cells: Iterable[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def memory_table(run: Run) -> str:
    """What each engine takes for a network, as a Markdown table."""
    engines = list(dict.fromkeys(residence.engine for residence in run.residences))
    titles = ["packed + folded weights + arena", *(f"peak, {ENGINE_TITLES.get(name, name)}" for name in engines)]
    titles += [
        *(f"loading, {ENGINE_TITLES.get(name, name)}" for name in engines if name != "torch"),
        "first / later call",
    ]
    lines = [f"MiB and seconds on {run.machine['cpu']}, {run.settings['threads']} threads, {_versions(run)}.", ""]
    lines += [f"| | {' | '.join(titles)} |", "|---|" + "--:|" * len(titles)]
    for name, batch in dict.fromkeys((residence.name, residence.batch) for residence in run.residences):
        found = {r.engine: r for r in run.residences if (r.name, r.batch) == (name, batch)}
        ours = found.get("fastconv") or Residence(name, batch, "", "fastconv")
        cells = [f"{name}, batch {batch}", " + ".join(map(_whole, (ours.weights_mib, ours.folded_mib, ours.arena_mib)))]
        cells += [_whole(found[engine].peak_mib) if engine in found else "–" for engine in engines]
        cells += [html.number(found[e].prepare_s, 2) if e in found else "–" for e in engines if e != "torch"]
        lines.append(_line([*cells, _times(ours.first_over_later)]))
    return "\n".join(lines)


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def residence_table(residences: list[Residence]) -> list[tuple[str, ...]]:
    """What the terminal shows of engines in processes of their own."""
    return [
        (
            residence.name,
            str(residence.batch),
            residence.engine,
            html.number(residence.peak_mib),
            html.number(residence.resident_mib),
            html.number(residence.weights_mib),
            html.number(residence.folded_mib),
            html.number(residence.arena_mib),
            html.number(residence.prepare_s),
            html.number(residence.first_ms),
            html.number(residence.later_ms),
            html.number(residence.first_over_later),
            residence.note,
        )
        for residence in residences
    ]


RESIDENCE_HEADERS = ("network", "batch", "engine", "peak MiB", "resident MiB", "packed", "folded", "arena", "load s",
                     "first ms", "later ms", "first / later", "")  # fmt: skip


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def update_documents(root: Path, run: Run) -> list[Path]:
    """Replaces what stands between `<!-- bench:SUITE -->` and `<!-- /bench -->` in README.md and docs/*.md, and behind
    `<!-- bench:SUITE-memory -->` where the run has engines in processes of their own.

    Returns:
        The files that have such a pair of markers.

    Raises:
        ValueError: none has.
    """
    tables = {run.suite: document_table(run)}
    if run.residences:
        tables[f"{run.suite}-memory"] = memory_table(run)
    changed = []
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        found = 0
        for name, table in tables.items():
            pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
            text, count = pattern.subn(rf"\g<1>{_literal(table)}\n\g<2>", text)
            found += count
        if found:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    if not changed:
        raise ValueError(f"README.md, docs: expected markers <!-- bench:{run.suite} --> and <!-- /bench -->")
    return changed


def _literal(text: str) -> str:
    """As a replacement in which nothing stands for a group."""
    return text.replace("\\", "\\\\")


def table_rows(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """What the terminal shows of rows."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        head = (row.name, row.layout, row.backend, row.algorithm)
        if row.median_ms is None:
            lines.append((*head, "–", *[""] * 6, "refused" if row.correct is None else "WRONG"))
            continue
        lines.append(
            (
                *head,
                f"{row.median_ms:.3f}",
                f"{row.q20_ms:.3f}–{row.q80_ms:.3f}",
                html.number(row.gflops),
                html.percent(row.peak_share),
                html.number(row.gbs),
                f"{row.speedup:.2f}" if row.speedup else "",
                f"{row.engine_speedup:.2f}" if row.engine_speedup else "",
                html.tiny(row.max_error) + (" WRONG" if row.correct is False else ""),
            )
        )
    return lines


def engine_lines(run: Run) -> list[str]:
    """One line a part of the run: how far ahead of the better engine, and where the least."""
    return [
        f"{line['part']}: {line['geomean']:.2f}x the better of onnxruntime and OpenVINO (geometric mean of "
        f"{line['problems']}), least {line['worst']:.2f}x ({line['worst_problem']}), {line['behind']} below 1.0x"
        for line in run.against_engines()
    ]


def aim_lines(run: Run) -> list[str]:
    """What the run says on loading, first calls and threads."""
    ours = [residence for residence in run.residences if residence.engine == "fastconv" and residence.first_over_later]
    lines = []
    if ours:
        slowest = max(ours, key=lambda residence: residence.prepare_s or 0.0)
        late = max(ours, key=lambda residence: residence.first_over_later or 0.0)
        lines = [
            f"converted in at most {slowest.prepare_s:.2f} s ({slowest.name}, batch {slowest.batch}); first call at "
            f"most {late.first_over_later:.2f}x a later one ({late.name}, batch {late.batch})"
        ]
    lines += [
        f"{row.name}, {row.backend}: {row.scaling:.2f}x faster on {run.settings['threads']} threads than on one"
        for row in run.rows
        if row.scaling
    ]
    beside = [row for row in best_of_ours(run.rows) if OURS_IN_FLOAT32 in row.ratios]
    lines += [f"{row.name}, {row.group}: {row.ratios[OURS_IN_FLOAT32]:.2f}x our own float32" for row in beside]
    return lines


def notes(rows: Iterable[Row]) -> list[str]:
    """Why rows have no time, and what is to be said of those that have one; a line for each algorithm and text."""
    return list(
        dict.fromkeys(
            f"{row.algorithm if row.is_ours else row.backend}: {row.note}"
            for row in rows
            if row.note and row.correct is not False
        )
    )


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
    "x engine",
    "off",
)
