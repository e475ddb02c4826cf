"""Shares work over processes: emulated kernels run one at a time in a process, and a machine has more than one core."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

_CASES_IN_A_SHARE = 8  # small enough that no process idles long at the end

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_shares(
    run: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    jobs: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Result]:
    """run(share) for shares of `items` in `jobs` fresh processes; results in the order of the shares.

    `run` and the items must be picklable. The processes are spawned, not forked: torch's threads do not survive a fork.
    """
    shares = [items[first : first + _CASES_IN_A_SHARE] for first in range(0, len(items), _CASES_IN_A_SHARE)]
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        pending = {pool.submit(run, share): index for index, share in enumerate(shares)}
        results: dict[int, Result] = {}
        for done, future in enumerate(as_completed(pending)):
            results[pending[future]] = future.result()
            if progress is not None:
                progress("shares of cases", min(len(items), (done + 1) * _CASES_IN_A_SHARE) - 1, len(items))
        for index in range(len(shares)):
            yield results[index]
