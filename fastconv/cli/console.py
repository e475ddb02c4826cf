"""What commands print: tables and progress with rich on a terminal, plain aligned text everywhere else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

OK, FAILED, USAGE = 0, 1, 2


class CommandError(Exception):
    """Ends a command with one line on stderr and an exit code: USAGE for a bad argument, else FAILED."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def choose(what: str, value: str, valid: Sequence[str]) -> str:
    """`value` if it is one of `valid`; otherwise an error that lists them."""
    if value not in valid:
        raise CommandError(f"{what}: expected one of {', '.join(valid)}, but got {value!r}", USAGE)
    return value


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


class Console:
    """Standard output."""

    def __init__(self, force_plain: bool = False) -> None:
        self._rich: Any = None
        if not force_plain and sys.stdout.isatty() and _has_rich():
            from rich.console import Console as RichConsole

            self._rich = RichConsole(highlight=False)

    def line(self, text: str = "") -> None:
        """One line as it is."""
        if self._rich is not None:
            self._rich.print(text, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, title: str = "") -> None:
        """A table; the first `left` columns are text, the others numbers."""
        natural = sum(max(len(row[index]) for row in [headers, *rows]) + 3 for index in range(len(headers)))
        # rich would squeeze a table that is too wide until its text columns vanish; wrapped lines keep every word
        if self._rich is None or natural > self._rich.width:
            self._plain_table(headers, rows, left, title)
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index < left else "right", no_wrap=index >= left)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._rich.print(table)

    def _plain_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int, title: str) -> None:
        if title:
            self.line(title)
        widths = [max(len(row[index]) for row in [headers, *rows]) for index in range(len(headers))]
        for row in [headers, *rows]:
            cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            self.line("  ".join(cells).rstrip())
        self.line()


class Progress:
    """A counter on stderr: redrawn on a terminal, silent elsewhere (a log needs no progress bar)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._live = sys.stderr.isatty()

    def show(self, index: int, total: int, label: str) -> None:
        """Says that `label`, number `index` (from 0) of `total`, is being worked on."""
        if self._live:
            text = f"{self._what} {index + 1}/{total}: {label}"
            print(f"\r\x1b[K{text[:110]}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
