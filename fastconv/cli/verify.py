"""`fastconv verify`: every kernel against the reference, with an exit code for CI."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from fastconv import machine
from fastconv.bench.memory import peak_rss_bytes
from fastconv.cli.common import make_folder
from fastconv.cli.console import FAILED, OK, CommandError, Console, Progress

_SHOWN_FAILURES = 20


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare every algorithm of every backend with the reference",
        description="Runs every algorithm of the available backends over a list of cases, in every dtype, layout and "
        "instruction set, and compares the outputs with a float64 reference in plain Python. Exits with 1 when one "
        "misses or an algorithm was never reached: that is what CI calls.",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="cpu, cuda_emulated, cuda, triton_interpreted or triton (default: all here)"
    )
    parser.add_argument("--op", metavar="NAME", help="only this operator")
    parser.add_argument("--algo", metavar="NAME", help="only this algorithm")
    parser.add_argument("--isa", metavar="NAME", help="only this instruction set of the cpu backend (default: all)")
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="with cuda_emulated: the GPU to emulate, sm_75, sm_80 or sm_90a; on sm_90a only the algorithms that no "
        "older GPU serves, each case under several orders of threads and copies, its ring of stages three times round",
    )
    parser.add_argument("--quick", action="store_true", help="a part of the cases, float32 only")
    parser.add_argument("--one-per-kernel", action="store_true", help="the largest case of each algorithm only")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes to share the cases (default: 1)")
    parser.add_argument("--json", metavar="PATH", help="also write every outcome as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the cases and shows the table."""
    from fastconv.verify import report as shown
    from fastconv.verify.emulated_gpu import verify_on
    from fastconv.verify.runner import verify

    if arguments.arch and (arguments.backend != "cuda_emulated" or arguments.isa):
        raise ValueError("--arch chooses the GPU of --backend cuda_emulated, and no instruction set beside it")
    compare = (
        partial(verify_on, arguments.arch) if arguments.arch else partial(verify, arguments.backend, isa=arguments.isa)
    )
    with Progress("verifying") as progress:
        report = compare(
            op=arguments.op,
            algo=arguments.algo,
            quick=arguments.quick,
            one_per_kernel=arguments.one_per_kernel,
            jobs=max(1, arguments.jobs),
            progress=lambda text, done, total: progress.show(done, total, text),
        )
    console = Console()
    console.table(shown.headers(report), shown.table_rows(report), left=4)
    for text in report.failures[:_SHOWN_FAILURES]:
        console.line(f"MISSED {text}")
    if len(report.failures) > _SHOWN_FAILURES:
        console.line(f"... and {len(report.failures) - _SHOWN_FAILURES} more")
    if not report.outcomes:
        console.line("nothing ran: no backend asked for has this operator and algorithm")
    console.line(f"{shown.summary(report)}; peak resident memory {peak_rss_bytes() / (1 << 20):.0f} MiB")
    if arguments.json:
        path = Path(arguments.json)
        make_folder(path.parent)
        try:
            shown.write_json(report, path, {**machine.describe(), "versions": machine.versions()})
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror or error}") from error
    return OK if report.ok else FAILED
