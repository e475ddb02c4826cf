"""Shares of a call on threads: each is computed exactly once, and fast threads take over what a slow one has left."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from buildtools.compile import Task, compile_all, default_compiler, exclusive, link  # noqa: E402

Run = tuple[np.ndarray, np.ndarray, np.ndarray]
MOST_SLOTS = 64  # that help one another


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if shutil.which(default_compiler().split()[0]) is None:
        pytest.skip("there is no C++ compiler")  # the package may have come as a wheel, to a machine without one
    build = ROOT / "build" / "cpu_tests"
    path = build / "libparallel_shares.so"
    flags = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-Wall", "-Wextra"]
    with exclusive(build):
        source = Path(__file__).with_name("parallel_shares.cpp")
        link(compile_all([Task.of(source, build, flags)]), path, ["-pthread"])
    return ctypes.CDLL(str(path))


def run(library: ctypes.CDLL, slots: int, count: int, slow: int = -1) -> Run:
    """How often each share was taken, by which slot, as the how manieth."""
    times, taker, order = (np.zeros(max(count, 1), np.int64) for _ in range(3))
    numbers = [ctypes.c_int64(number) for number in (slots, count, slow)]
    library.shares_run(*numbers, *(ctypes.c_void_p(array.ctypes.data) for array in (times, taker, order)))
    return times[:count], taker[:count], order[:count]


@pytest.mark.parametrize("slots", [1, 2, 3, 16, MOST_SLOTS, MOST_SLOTS + 1])
@pytest.mark.parametrize("shares_each", [0, 0.5, 1, 1.3, 7, 100])
def test_every_share_once(library: ctypes.CDLL, slots: int, shares_each: float) -> None:
    count = int(slots * shares_each)
    for _ in range(3):
        times, taker, _ = run(library, slots, count)
        assert (times == 1).all() and len(times) == count
        assert ((taker >= 0) & (taker < slots)).all()


@pytest.mark.parametrize("slots", [2, 5, MOST_SLOTS])
@pytest.mark.parametrize("shares_each", [1.5, 2, 13])
def test_a_slow_thread_is_helped(library: ctypes.CDLL, slots: int, shares_each: float) -> None:
    for slow in {0, slots // 2, slots - 1}:
        times, taker, _ = run(library, slots, int(slots * shares_each), slow)
        assert (times == 1).all()
        assert (taker == slow).sum() == 1, "it has only done what it was slow at"


def test_in_order_and_from_the_others_ends(library: ctypes.CDLL) -> None:
    times, taker, order = run(library, 2, 20, slow=0)
    assert (times == 1).all()
    helpers = [share for share in np.argsort(order) if taker[share] == 1]
    assert helpers == [*range(10, 20), *range(9, 0, -1)]


def test_more_slots_than_help_have_fixed_stretches(library: ctypes.CDLL) -> None:
    slots, count = MOST_SLOTS + 1, 3 * (MOST_SLOTS + 1) + 5
    _, taker, _ = run(library, slots, count)
    assert (np.diff(taker) >= 0).all() and set(taker) == set(range(slots))
