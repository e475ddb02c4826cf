"""What several commands ask of the package: backends with their states, thread counts, output folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastconv import backends
from fastconv.backends import BACKENDS
from fastconv.cli.console import FAILED, CommandError, choose


def backend_states() -> dict[str, str | None]:
    """Backend name -> None where it can run, else one line that says why not."""
    return {name: backends.why_unavailable(name) for name in BACKENDS}


def choose_backend(name: str | None) -> str:
    """The backend asked for (else FASTCONV_BACKEND's, else cpu), checked to exist and to be able to run here."""
    name = choose("backend", name or backends.forced() or "cpu", BACKENDS)
    reason = backend_states()[name]
    if reason is not None:
        raise CommandError(f"backend {name} is not available: {reason}", FAILED)
    return name


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that measure."""
    parser.add_argument("--backend", metavar="NAME", help=f"one of {', '.join(BACKENDS)} (default: cpu)")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads (default: torch's own number)")
    parser.add_argument("--quick", action="store_true", help="few rounds and fewer problems: does it run, not how fast")


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, but got {text!r}")
    return value


def make_folder(path: str | Path) -> Path:
    """The output folder, created."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot create the folder {folder}: {error.strerror or error}") from error
    return folder


def write_text(path: Path, text: str) -> None:
    """Writes a report."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from error
