"""Measuring on a GPU: its own clock, a cold L2 cache, and what the chip can do at best."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

# Several times the L2 cache of an H200. Filling it also keeps the GPU busy, for some 100 microseconds there, while the
# host enqueues the call to be timed, so that launch latency is not counted.
_FLUSH_BYTES = 512 << 20


@cache
def _flush_buffer(device: int) -> torch.Tensor:
    return torch.empty(_FLUSH_BYTES // 4, dtype=torch.float32, device=torch.device("cuda", device))


def sample(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of one call by the GPU's clock, the L2 cache flushed before each of `repeats`: their median."""
    flush = _flush_buffer(torch.cuda.current_device())
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        flush.fill_(1.0)
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3


@contextmanager
def cudnn_search(device: str) -> Iterator[None]:
    """Lets cuDNN try its algorithms for each shape, as a careful user of torch on a GPU would; nothing on the CPU."""
    if device != "cuda":
        yield
        return
    settings = torch.backends.cudnn
    with settings.flags(
        enabled=settings.enabled, benchmark=True, deterministic=settings.deterministic, allow_tf32=settings.allow_tf32
    ):
        yield


@cache
def ceilings(device: int = 0) -> dict[str, Any]:
    """The best of this GPU as torch reaches it: a large bfloat16 product (GFLOP/s), a large copy (GB/s, both ways)."""
    with torch.cuda.device(device):
        n = 8192
        a, b = (torch.rand(n, n, device="cuda").mul_(2).sub_(1).to(torch.bfloat16) for _ in range(2))
        source = torch.rand(1 << 28, device="cuda")
        target = torch.empty_like(source)
        for _ in range(3):
            a @ b
            target.copy_(source)
        product = sample(lambda: a @ b, 10)
        copy = sample(lambda: target.copy_(source), 10)
    return {
        "fma_gflops": 2 * n**3 / product / 1e9,
        "copy_gbs": 2 * source.numel() * source.element_size() / copy / 1e9,
        "device": torch.cuda.get_device_name(device),
        "note": "peak: torch's bfloat16 matmul at 8192^3; copy: 1 GiB read and written",
    }
