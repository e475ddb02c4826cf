"""`fastconv bench --suite zoo`: other people's networks, one row each."""

from __future__ import annotations

import argparse

from fastconv import html
from fastconv.bench.results import default_folder
from fastconv.bench.timing import Effort
from fastconv.bench.zoo import MissingPackage, report
from fastconv.bench.zoo.runner import ZooRun, run_zoo
from fastconv.cli.common import make_folder, write_text
from fastconv.cli.console import FAILED, OK, CommandError, Console, Progress


def run(arguments: argparse.Namespace, console: Console) -> int:
    """1 where a network misses."""
    effort = Effort.quick() if arguments.quick or arguments.check else Effort(seconds=0.25, min_rounds=5)
    try:
        with Progress("measuring") as progress:
            measured = run_zoo(arguments.threads, effort, progress.show, small=arguments.quick)
    except MissingPackage as error:
        raise CommandError(str(error)) from error
    console.table(report.HEADERS, report.table_rows(measured.rows), left=2)
    console.line("left to torch, and why:")
    for operation, why, count, networks in report.reasons(measured.rows):
        console.line(f"  {count} x {operation} in {networks} network{'s' if networks != 1 else ''}: {why}")
    line = measured.summary()[0]
    console.line(
        f"{line['networks']} networks: {line['layers']} layers in {line['kernels']} kernels, {line['left']} operations "
        f"left to torch; geometric mean {line['convert_speedup']:.2f}x after convert, {line['replace_speedup']:.2f}x "
        "after replace"
    )
    _write(arguments, measured, console)
    for row in measured.failures:
        for problem in row.problems:
            console.line(f"MISS: {row.name}: {problem}")
    return FAILED if measured.failures else OK


def _write(arguments: argparse.Namespace, measured: ZooRun, console: Console) -> None:
    if arguments.check and not arguments.output:
        return  # a gate looks at the exit code; times of a few rounds are not to replace a measured run's
    folder = make_folder(arguments.output or default_folder())
    measured.write_json(folder / "zoo.json")
    console.line(f"results: {folder / 'zoo.json'}")
    if lacking := html.missing_packages():
        console.line(f"no HTML report: {', '.join(lacking)} not installed: pip install 'fastconv[bench]'")
        return
    write_text(folder / "zoo.html", report.build_report(measured, "fastconv bench --suite zoo"))
    console.line(f"report: {folder / 'zoo.html'}")
