"""`fastconv autotune`: times the algorithms that serve a problem, or a network's problems, and writes a table."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from fastconv import autotuner, backends, machine, tuning
from fastconv.bench.networks import NETWORKS
from fastconv.bench.operations import DTYPES, LAYOUTS
from fastconv.bench.timing import Effort
from fastconv.cli.common import positive
from fastconv.cli.console import OK, USAGE, CommandError, Console, choose
from fastconv.cli.profile import load_model
from fastconv.introspection import OPERATORS

_HEADERS = ("op", "problem", "dtype", "layout", "algorithm", "", "predicted us", "measured us")


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "autotune",
        help="time the algorithms of a problem or a network and keep the times in a table",
        description="Times every algorithm that serves a problem, or each problem of a converted network, on the "
        "device here, and adds the times to a table (JSON, a line for each problem). The table chooses nothing until "
        "fastconv.use_tuning(path) or FASTCONV_AUTOTUNE=path says so. On the CPU predictions are of one image on one "
        "thread, measurements of the call.",
    )
    parser.add_argument(
        "what", metavar="WHAT", help=f"one of {', '.join(OPERATORS)}; {', '.join(NETWORKS)}; or module:callable"
    )
    parser.add_argument("problem", metavar="PROBLEM", nargs="?", help="of an operator, as `fastconv bench` takes it")
    parser.add_argument("--dtype", default="float32", metavar="NAME", help=f"one of {', '.join(DTYPES)}")
    parser.add_argument("--layout", metavar="NAME", help=f"one of {', '.join(LAYOUTS)}; of gemm nn, nt, tn, tt")
    parser.add_argument("--backend", metavar="NAME", help="cpu or cuda (default: cuda where it can run)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="of a network (default: 1)")
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="of a network's images (default: its own)")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads (default: torch's own number)")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run, not how fast")
    parser.add_argument(
        "--output", metavar="FILE", help="the table, made or added to (default: ~/.cache/fastconv/tuning.json)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes the table and prints what was added."""
    console = Console()
    backend = arguments.backend or backends.forced() or None
    if backend is not None:
        autotuner.check_backend(backend)
    path = arguments.output or tuning.default_path()
    options: dict[str, Any] = {"path": path, "effort": Effort.quick() if arguments.quick else None}
    choose("dtype", arguments.dtype, tuple(DTYPES))
    with machine.torch_threads(arguments.threads):
        if arguments.what in OPERATORS:
            if arguments.problem is None:
                raise CommandError(f"{arguments.what} needs a PROBLEM such as mb1ic64ih56oc64kh3ph1; see --help", USAGE)
            options.update(dtype=arguments.dtype, layout=arguments.layout, backend=backend)
            entries = autotuner.autotune(arguments.what, arguments.problem, **options)
        else:
            entries = autotuner.autotune(*_network(arguments, backend), **options)
    console.table(_HEADERS, autotuner.table_rows(entries), left=6)
    console.line(f"{len(entries)} problems in {path}; FASTCONV_AUTOTUNE={path} lets it choose")
    return OK


def _network(arguments: argparse.Namespace, backend: str | None) -> tuple[torch.nn.Module, torch.Tensor]:
    """A converted network and its input."""
    import fastconv

    if arguments.problem is not None:
        raise CommandError(f"expected no PROBLEM with the network {arguments.what}", USAGE)
    if ":" not in arguments.what:
        choose("WHAT", arguments.what, (*OPERATORS, *NETWORKS))
    device = backend or ("cuda" if backends.why_unavailable("cuda") is None else "cpu")
    layout = choose("layout", arguments.layout or "nhwc", LAYOUTS)
    model, size = load_model(arguments.what)
    size, dtype = arguments.size or size, DTYPES[arguments.dtype]
    x = torch.randn(arguments.batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    if layout == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    model, x = model.to(device), x.to(device)
    return fastconv.convert(model, (x,), dtype=None if dtype is torch.float32 else dtype), x
