"""Work that several threads do at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def at_once(work: Callable[[int], object], count: int) -> None:
    """work(0) to work(count - 1), each on a new thread, begun together. Raises what the first of them has raised."""
    together = threading.Barrier(count)

    def begin(index: int) -> None:
        together.wait()
        work(index)

    with ThreadPoolExecutor(count) as pool:  # leaving it joins all threads, also where one has raised
        list(pool.map(begin, range(count)))
