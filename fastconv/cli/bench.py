"""`fastconv bench`: one kernel or a whole suite against torch, in interleaved medians."""

from __future__ import annotations

import argparse
from typing import Any

from fastconv import calibration, html
from fastconv.bench import report, tables
from fastconv.bench.networks import NETWORKS, find_network
from fastconv.bench.operations import DTYPES, LAYOUTS, OPS, TORCH_ACTIVATIONS, Workload, check
from fastconv.bench.peers import PEERS, missing_packages
from fastconv.bench.problem import parse_problem
from fastconv.bench.results import Run, checkout_root, default_folder
from fastconv.bench.runner import Settings
from fastconv.bench.suites import SUITES, run_networks, run_suite, run_workloads
from fastconv.bench.timing import Effort
from fastconv.cli.common import add_measuring_arguments, choose_backend, make_folder, positive, write_text
from fastconv.cli.console import FAILED, OK, USAGE, CommandError, Console, Progress, choose

_EXAMPLES = """examples:
  fastconv bench conv2d mb8ic64ih56oc64oh56kh3ph1 --algo all --act relu
  fastconv bench conv2d mb1ic64ih56oc64kh3ph1 --dtype bfloat16 --layout nhwc
  fastconv bench gemm m512k512n512
  fastconv bench resnet50 --batch 8
  fastconv bench --suite layers
  fastconv bench --suite networks --peers torch,inductor,onnxruntime,openvino

A problem is written as oneDNN's benchdnn writes it, keys in any order: g groups, mb batch, ic/oc channels, ih/iw/oh/ow
sizes, kh/kw filter, sh/sw stride, ph/pw padding, dh/dw skipped pixels (0 is dense), uh/uw upsampling; what is left out
is inferred. Matrix products are mMkKnN or bBmMkKnN."""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    suites = "; ".join(f"{name}: {text}" for name, text in SUITES.items())
    parser = commands.add_parser(
        "bench",
        help="time one kernel or a suite against torch",
        description="Times fastconv against torch in both memory layouts, contenders in turn. Outputs are compared "
        "with float64 before and after timing; a wrong one makes the command fail.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "op", nargs="?", metavar="OP", help=f"one of {', '.join(OPS)}, or a network: {', '.join(NETWORKS)}"
    )
    parser.add_argument("problem", nargs="?", metavar="PROBLEM", help="shapes, see below")
    parser.add_argument("--suite", metavar="NAME", help=suites)
    parser.add_argument("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(DTYPES)}")
    parser.add_argument("--algo", metavar="NAME", help="an algorithm, or all (default: the package chooses)")
    parser.add_argument("--act", default="identity", metavar="NAME", help=f"one of {', '.join(TORCH_ACTIVATIONS)}")
    parser.add_argument("--layout", default="all", metavar="NAME", help="nchw, nhwc or all (default: all)")
    parser.add_argument("--no-bias", action="store_true", help="leave the bias out")
    parser.add_argument("--residual", action="store_true", help="add a residual before the activation")
    parser.add_argument("--batch", type=positive, metavar="N", help="batch of a network (default: 1)")
    parser.add_argument("--peers", default="torch", metavar="LIST", help=f"of {', '.join(PEERS)} (default: torch)")
    parser.add_argument("--cold-cache", action="store_true", help="flush the caches before every call")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the JSON and HTML files (default for a suite: bench/results/MACHINE in a checkout, else "
        "fastconv-results; for one kernel: none)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="with --suite zoo: compare every network and time it only briefly, as a gate does; writes no files",
    )
    parser.add_argument(
        "--update-readme", action="store_true", help="rewrite the checkout's tables in README.md and docs"
    )
    add_measuring_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures what was asked for; 1 where an output was wrong or no algorithm served."""
    console = Console()
    if arguments.suite == "zoo":
        from fastconv.cli import zoo

        return zoo.run(arguments, console)
    settings = _settings(arguments, console)
    measured = _measure(arguments, settings)
    console.table(tables.TABLE_HEADERS, tables.table_rows(measured.rows), left=4)
    for note in tables.notes(measured.rows):
        console.line(f"refused by {note}")
    _print_summary(console, measured)
    _write(arguments, measured, console)
    for row in measured.failures:
        console.line(
            f"WRONG: {row.op} {row.problem} {row.dtype} {row.layout} {row.backend} {row.algorithm}: {row.note}"
        )
    served = any(row.is_ours and row.median_ms is not None for row in measured.rows)
    return OK if served and not measured.failures else FAILED


def _settings(arguments: argparse.Namespace, console: Console) -> Settings:
    choose("layout", arguments.layout, (*LAYOUTS, "all"))
    asked = tuple(dict.fromkeys(choose("peer", peer, tuple(PEERS)) for peer in arguments.peers.split(",")))
    missing = tuple(peer for peer in asked if missing_packages(peer))
    for peer in missing:
        lacking = missing_packages(peer)
        console.line(f"without {peer}, which needs {', '.join(lacking)}: pip install {' '.join(lacking)}")
    effort = Effort.quick(arguments.cold_cache) if arguments.quick else Effort(cold_cache=arguments.cold_cache)
    backend = choose_backend(arguments.backend)
    return Settings(
        backend=backend,
        layouts=LAYOUTS if arguments.layout == "all" else (arguments.layout,),
        algorithms=_algorithms(arguments, backend),
        effort=effort,
        peers=tuple(peer for peer in asked if peer not in missing),
        threads=arguments.threads,
        dtype=arguments.dtype,
        missing_peers=missing,
        processes=not arguments.quick,
    )


def _algorithms(arguments: argparse.Namespace, backend: str) -> tuple[str | None, ...]:
    if arguments.algo is None:
        return (None,)
    import fastconv

    if arguments.op not in OPS:
        raise CommandError("--algo goes with one operation: fastconv bench OP PROBLEM --algo NAME", USAGE)
    names = tuple(entry.name for entry in fastconv.algorithms(arguments.op, backend))
    if not names:
        raise CommandError(f"{arguments.op} has a single algorithm on {backend}; leave --algo out", USAGE)
    choose("algo", arguments.algo, (*names, "all"))
    return names if arguments.algo == "all" else (arguments.algo,)


def _measure(arguments: argparse.Namespace, settings: Settings) -> Run:
    calibration.ensure()
    if arguments.suite is not None:
        if arguments.op is not None:
            raise CommandError("expected either OP PROBLEM or --suite, but got both", USAGE)
        if arguments.check:
            raise CommandError("--check goes with --suite zoo: every other run fails on a wrong output anyway", USAGE)
        choose("suite", arguments.suite, tuple(SUITES))
        with Progress("measuring") as progress:
            return run_suite(arguments.suite, settings, arguments.quick, progress.show)
    if arguments.op is None:
        raise CommandError("expected OP PROBLEM, a network or --suite NAME; see fastconv bench --help", USAGE)
    if arguments.op in NETWORKS:
        with Progress("measuring") as progress:
            return run_networks([find_network(arguments.op).name], [arguments.batch or 1], settings, progress.show)
    choose("OP", arguments.op, (*OPS, *NETWORKS))
    if arguments.problem is None:
        raise CommandError(f"{arguments.op} needs a PROBLEM such as mb1ic64ih56oc64kh3ph1; see --help", USAGE)
    workload = Workload(
        arguments.op,
        parse_problem(arguments.op, arguments.problem),
        dtype=arguments.dtype,
        act=arguments.act,
        bias=not arguments.no_bias,
        residual=arguments.residual,
    )
    check(workload)
    with Progress("measuring") as progress:
        return run_workloads(arguments.op, [workload], settings, progress.show)


def _print_summary(console: Console, measured: Run) -> None:
    if measured.residences:
        console.table(tables.RESIDENCE_HEADERS, tables.residence_table(measured.residences), left=1)
    rows = [
        (
            line["group"],
            str(line["problems"]),
            f"{line['geomean_speedup']:.2f}",
            f"{line['min_speedup']:.2f}",
            str(line["slower_than_torch"]),
            f"{html.percent(line['min_peak_share'])} to {html.percent(line['max_peak_share'])}",
            html.percent(line["max_copy_share"]),
        )
        for line in measured.summary()
    ]
    if len(measured.rows) > 4 and rows:
        headers = ("group", "problems", "geomean x torch", "slowest", "slower than torch", "of FMA peak", "of copy")
        console.table(headers, rows)
    for line in (*tables.engine_lines(measured), *tables.aim_lines(measured)):
        console.line(line)
    limits = measured.ceilings
    if limits.get("unavailable"):
        console.line(f"ceilings: {limits['unavailable']}")
    else:
        console.line(
            f"measured on {measured.settings['threads']} threads: float32 FMA peak {limits['fma_gflops']:.0f} GFLOP/s, "
            f"copy {limits['copy_gbs']:.1f} GB/s (bytes read plus written)"
        )
    peak = max((row.peak_memory_mib or 0.0 for row in measured.rows), default=0.0)
    ours = [row.scratch_mib for row in measured.rows if row.is_ours and row.scratch_mib is not None]
    if ours and not measured.suite.startswith(("networks", "training", "scaling")):
        console.line(f"peak resident memory {peak:.0f} MiB; largest scratch of one fastconv call {max(ours):.2f} MiB")
    else:
        console.line(f"peak resident memory {peak:.0f} MiB")


def _write(arguments: argparse.Namespace, measured: Run, console: Console) -> None:
    if arguments.output or arguments.suite:
        folder = make_folder(arguments.output or default_folder())
        path = folder / f"{measured.suite}.json"
        try:
            measured.write_json(path)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror or error}") from error
        console.line(f"results: {path}")
        lacking = html.missing_packages()
        if lacking:
            console.line(f"no HTML report: {', '.join(lacking)} not installed: pip install 'fastconv[bench]'")
        else:
            command = f"fastconv bench {f'--suite {arguments.suite}' if arguments.suite else arguments.op}"
            command += f" --dtype {arguments.dtype}" if arguments.dtype != "float32" else ""
            command += f" --peers {arguments.peers}" if arguments.peers != "torch" else ""
            write_text(folder / f"{measured.suite}.html", report.build_report(measured, command))
            console.line(f"report: {folder / f'{measured.suite}.html'}")
    if arguments.update_readme:
        root = checkout_root()
        if root is None:
            raise CommandError("--update-readme: no README.md here; run it inside the checkout")
        try:
            changed = tables.update_documents(root, measured)
        except ValueError as error:
            raise CommandError(str(error)) from error
        console.line(f"updated {', '.join(path.name for path in changed)}")
