"""`fastconv info`: what was built, which instruction set runs, which backends can be used and why others cannot."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from fastconv import calibration, machine
from fastconv.cli.common import backend_states
from fastconv.cli.console import OK, Console


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="what is installed and which backends can run",
        description="Shows the build, the instruction set in use and those this CPU has, every backend with the reason "
        "why it cannot run if it cannot, and versions.",
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="measure the constants of the cost model anew and keep them"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run)


def collect() -> dict[str, Any]:
    """Everything the command shows."""
    return {
        "build": machine.build_facts(),
        "backends": backend_states(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "threads": torch.get_num_threads(),
        "cost_model": calibration.describe(),
    }


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """A row for each fact; one that has parts gets a row for each of them."""
    rows = []
    for key, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{key} {part}".strip().replace("_", " "), _text(item)) for part, item in parts]
    return rows


def run(arguments: argparse.Namespace) -> int:
    """Prints the facts."""
    if arguments.calibrate:
        calibration.calibrate()
    facts = collect()
    if arguments.json:
        print(json.dumps(facts, indent=1, default=str))
        return OK
    console = Console()
    console.table(("build", ""), _rows(facts["build"]), left=2)
    console.table(
        ("backend", "state"),
        [(name, "available" if reason is None else reason) for name, reason in facts["backends"].items()],
        left=2,
    )
    rows = [(key, _text(value)) for part in ("machine", "versions") for key, value in facts[part].items() if value]
    console.table(("machine", ""), [*rows, ("threads", str(facts["threads"]))], left=2)
    console.table(("cost model", ""), _rows(facts["cost_model"]), left=2)
    return OK
