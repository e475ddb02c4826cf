"""Calls leave nothing behind in memory."""

from __future__ import annotations

import ctypes
import gc

import pytest
import torch

import fastconv.functional as F
from fastconv.bench.soak import resident_bytes

CALLS = 4000


def _settled_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library does not give memory back")
def test_an_operator_keeps_nothing() -> None:
    x, w = torch.randn(1, 4, 6, 6), torch.randn(4, 4, 3, 3)
    with torch.no_grad():
        for _ in range(500):
            F.conv2d(x, w, padding=1, act="relu")
        before = _settled_bytes()
        for _ in range(CALLS):
            F.conv2d(x, w, padding=1, act="relu")
        grown = _settled_bytes() - before
    # Three texts that torch's conversion forgot were 140 bytes a call.
    assert grown < 60 * CALLS
