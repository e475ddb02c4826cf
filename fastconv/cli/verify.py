"""`fastconv verify`: every kernel against the reference, with an exit code for CI."""

from __future__ import annotations

import argparse
from typing import Any

from fastconv.cli.common import BACKENDS


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare every algorithm of every backend with the reference",
        description="Runs every algorithm of the available backends over a list of cases and compares the outputs with "
        "a float64 reference in plain Python. Exits non-zero on the first kind of miss: that is what CI calls.",
    )
    parser.add_argument("--backend", metavar="NAME", help=f"only this one of {', '.join(BACKENDS)} (default: all here)")
    parser.add_argument("--op", metavar="NAME", help="only this operator")
    parser.add_argument("--algo", metavar="NAME", help="only this algorithm")
    parser.add_argument("--quick", action="store_true", help="a small part of the cases")
    parser.add_argument("--json", metavar="PATH", help="also write the results as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Hands over to the runner."""
    from fastconv import verify

    return int(verify.run(arguments))
