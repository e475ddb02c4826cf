"""The tests here use what the tests of fastconv.convert share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import stand_in
from stand_in import StandIn

import fastconv
from fastconv.convert import lower
from fastconv.convert.plan import graphed
from fastconv.convert.plan.target import Target


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandIn]]:
    """Graphs on the emulated GPU: those of every network that the test converts."""
    made: list[StandIn] = []

    def graphs_of(target: Target) -> StandIn:
        made.append(StandIn())
        return made[-1]

    monkeypatch.setattr(lower, "graphs_of", graphs_of)
    monkeypatch.setattr(graphed, "_too_small", lambda plan: None)  # as the networks of tests are
    monkeypatch.setattr(Target, "run", stand_in.run)
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    with fastconv.backend("cuda_emulated"), torch.no_grad():
        yield made
