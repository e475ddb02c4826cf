"""Entry point of `fastconv`: reads the arguments, runs the command, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastconv.cli import autotune, bench, demo, info, numerics, profile, verify
from fastconv.cli.console import FAILED, USAGE, CommandError

_COMMANDS = (info, verify, numerics, bench, autotune, profile, demo)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fastconv",
        description="Hand-written convolution kernels for PyTorch: what is installed, is it right, how fast is it.",
        epilog="Exit codes: 0 all well, 1 a check or a command failed, 2 bad arguments. "
        "`fastconv COMMAND --help` explains each command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fastconv` with `argv` (the process's arguments by default) and returns its exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        import fastconv

        print(f"fastconv {fastconv.__version__}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return USAGE
    try:
        return int(arguments.run(arguments))
    except CommandError as error:
        return _complain(arguments.command, str(error), error.code)
    except (ValueError, NotImplementedError) as error:
        # The package's own argument errors are written for users; anything else is a bug and keeps its traceback.
        return _complain(arguments.command, str(error), USAGE)
    except KeyboardInterrupt:
        return _complain(arguments.command, "interrupted", 130)
    except BrokenPipeError:
        # The reader (`head`, say) has gone: nothing more can be printed, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _complain(command: str, message: str, code: int) -> int:
    print(f"fastconv {command}: error: {' '.join(message.split())}", file=sys.stderr)
    return code
