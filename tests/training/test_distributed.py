"""Two processes over gloo equal one on the whole batch: DistributedDataParallel, with and without shared BatchNorms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import CASES, steps

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")


def close(mine: Any, other: Any, what: str) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(found: list[dict[str, Any]], case: str) -> None:
    """Gradients of the first step, weights and running statistics after the second."""
    alone = steps(CASES[case][2](), slice(None))
    for rank in found:
        assert rank[case].keys() == alone.keys() and any(name.startswith("grad") for name in alone)
        for name, value in alone.items():
            close(rank[case][name], value, name)


def test_norms_of_each_process_alone_are_torchs(found: list[dict[str, Any]]) -> None:
    """Without SyncBatchNorm two processes do not equal one; they equal two processes on torch's layers."""
    for rank in found:
        for name, value in rank["torch"].items():
            close(rank["ours"][name], value, name)
