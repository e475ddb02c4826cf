"""A soak: thousands of forwards over changing shapes with flat memory, and many threads at once with equal bits.

    python -m fastconv.bench.soak [--network mobilenet_v2] [--forwards 10000] [--shapes 200] [--threads 8]

Exits with 1 when memory grows or an output differs.
"""

from __future__ import annotations

import argparse
import gc
import random
import threading
import time
import traceback
from pathlib import Path

import torch
from torch import nn

import fastconv
from fastconv.bench.networks import find_network

_MIB = float(1 << 20)
_TOLERANCE = 1e-3  # from torch's outputs, relative to the largest value


def resident_bytes() -> int:
    """What the process has in memory now, of the system's own count."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def shapes_for(count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Distinct small image sizes and batches, the largest among the first so that memory is at its peak early."""
    generator = random.Random(seed)
    found: set[tuple[int, int, int, int]] = {(3, 3, 96, 96)}
    while len(found) < count:
        found.add((generator.randint(1, 3), 3, generator.randint(32, 96), generator.randint(32, 96)))
    return sorted(found, key=lambda shape: -shape[0] * shape[2] * shape[3])


def soak(model: nn.Module, forwards: int, shapes: list[tuple[int, int, int, int]]) -> list[float]:
    """Resident MiB at ten points of the second half, after every shape has been seen.

    torch computes what is expected beforehand: it keeps kernels of every shape it meets, which is not our memory.

    Raises:
        AssertionError: an output is not torch's, or not bit for bit the first one of its shape.
    """
    converted = fastconv.convert(model)
    generator = random.Random(1)
    inputs = [torch.rand(shape) for shape in shapes]
    samples: list[float] = []
    with torch.inference_mode():
        expected = [model(x) for x in inputs]
        seen: set[int] = set()
        for index in range(forwards):
            which = index if index < len(shapes) else generator.randrange(len(shapes))
            y = converted(inputs[which].clone())  # at another address each time
            if which in seen:
                if not torch.equal(y, expected[which]):
                    raise AssertionError(f"forward {index}, shape {shapes[which]}: other bits than at first")
            else:
                off = float((y - expected[which]).abs().max() / expected[which].abs().max().clamp_min(1e-6))
                if not off < _TOLERANCE:  # nor NaN
                    raise AssertionError(f"forward {index}, shape {shapes[which]}: off by {off:.2g} of the largest")
                seen.add(which)
                expected[which] = y
            if index >= forwards // 2 and (index + 1) % max(1, forwards // 20) == 0:
                gc.collect()
                samples.append(resident_bytes() / _MIB)
    print(f"  memory of the conversion: {converted.memory()}")
    return samples


def concurrently(model: nn.Module, threads: int, rounds: int) -> int:
    """How many outputs of `threads` threads differ from those of one."""
    converted = fastconv.convert(model)
    inputs = [torch.rand(shape) for shape in ((1, 3, 64, 64), (2, 3, 64, 48), (1, 3, 96, 64))]
    with torch.inference_mode():
        expected = [fastconv.convert(model)(x) for x in inputs]
    differing: list[int] = []

    def work(thread: int) -> None:
        with torch.inference_mode():
            for i in range(rounds):
                which = (thread + i) % len(inputs)
                try:
                    if not torch.equal(converted(inputs[which]), expected[which]):
                        differing.append(thread)
                except Exception:
                    traceback.print_exc()
                    differing.append(thread)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(differing)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastconv.bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mobilenet_v2", help="one of the benchmark's networks")
    parser.add_argument("--forwards", type=int, default=10_000)
    parser.add_argument("--shapes", type=int, default=200, help="how many different ones")
    parser.add_argument("--threads", type=int, default=8, help="that call at once")
    parser.add_argument("--slack", type=float, default=2.0, help="percent by which memory may grow")
    options = parser.parse_args(arguments)
    model = find_network(options.network).build()
    start = time.perf_counter()
    print(f"soak: {options.forwards} forwards of {options.network} over {options.shapes} shapes")
    samples = soak(model, options.forwards, shapes_for(options.shapes))
    growth = 100 * (samples[-1] / samples[0] - 1)
    print(f"  resident MiB in the second half: {' '.join(f'{sample:.0f}' for sample in samples)} ({growth:+.1f} %)")
    differing = concurrently(model, options.threads, 40)
    print(
        f"  {options.threads} threads at once: {differing} of {options.threads * 40} outputs differ from one thread's"
    )
    flat = growth <= options.slack
    print(f"soak: {'flat' if flat and not differing else 'FAILED'}, {time.perf_counter() - start:.0f} s")
    return 0 if flat and not differing else 1


if __name__ == "__main__":
    raise SystemExit(main())
