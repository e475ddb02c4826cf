"""`fastconv verify`: every kernel against the reference, with an exit code for CI."""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

from fastconv.cli.common import choose_backend
from fastconv.cli.console import FAILED, OK, USAGE, CommandError, Console, Progress

SHOWN_FAILURES = 40


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare every algorithm of every backend with the reference",
        description="Runs every algorithm of the available backends over a list of cases and compares the outputs with "
        "a float64 reference in plain Python. Exits non-zero when a comparison misses or an algorithm never ran: that "
        "is what CI calls. FASTCONV_CPU_ISA or --isa restricts the CPU backend to one instruction set.",
    )
    parser.add_argument("--backend", metavar="NAME", help="only this one of cpu, cuda_emulated, cuda (default: all here)")
    parser.add_argument("--op", metavar="NAME", help="only this operator")
    parser.add_argument("--algo", metavar="NAME", help="only this algorithm")
    parser.add_argument("--isa", metavar="NAME", help="only this instruction set of the CPU backend")
    parser.add_argument("--quick", action="store_true", help="every seventh case, float32 only")
    parser.add_argument("--json", metavar="PATH", help="also write the results as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the cases, prints the table and the misses."""
    from fastconv import introspection, machine
    from fastconv.verify import report as show
    from fastconv.verify import verify

    if arguments.backend is not None:
        choose_backend(arguments.backend)
    console = Console()
    introspection.reset_peak_workspace()
    bar: Progress | None = None

    def advance(text: str, done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Progress(total, "verify")
        bar.step(text)

    try:
        report = verify(
            arguments.backend,
            op=arguments.op,
            algo=arguments.algo,
            isa=arguments.isa,
            quick=arguments.quick,
            progress=advance,
        )
    except ValueError as error:
        raise CommandError(str(error), USAGE) from error
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
    console.table(show.HEADERS, show.table_rows(report), left=4)
    for text in report.failures[:SHOWN_FAILURES]:
        console.line(f"MISSED {text}")
    if len(report.failures) > SHOWN_FAILURES:
        console.line(f"... and {len(report.failures) - SHOWN_FAILURES} more")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    workspace = introspection.peak_workspace_bytes() / (1 << 20)
    console.line(f"peak memory {peak:.0f} MiB resident, largest workspace of a call {workspace:.2f} MiB")
    console.line(show.summary(report))
    if arguments.json:
        show.write_json(report, Path(arguments.json), dict(machine.describe()))
    return OK if report.ok else FAILED
