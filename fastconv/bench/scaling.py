"""How much faster a converted network becomes with threads: one thread against all, in turn, peers likewise."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastconv
from fastconv import machine
from fastconv.bench import peers, timing
from fastconv.bench.network_runner import Truth, count_work
from fastconv.bench.networks import Network
from fastconv.bench.results import Row
from fastconv.bench.runner import Contender, Settings, compare, fill_times, finish, forced_backend


def measure_scaling(network: Network, batch: int, settings: Settings) -> list[Row]:
    """For each engine a row on one thread and one on all; `scaling` of the latter is the former's time over it."""
    model, size = network.build(), network.image_size
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    truth = Truth(model, x, "float32")
    everything = torch.get_num_threads()
    pairs: list[tuple[Contender, Contender]] = []
    with tempfile.TemporaryDirectory() as folder, forced_backend(settings.backend):
        converted = fastconv.convert(model, (x,))
        engines = [(settings.backend, "convert"), *((name, "whole network") for name in settings.peers)]
        for name, algorithm in engines:
            made = []
            for threads in (1, everything):
                with machine.torch_threads(threads):
                    if name in (settings.backend, "torch"):
                        call: Callable[[], Any] = functools.partial(model if name == "torch" else converted, x)
                    else:
                        call = peers.prepare(name, model, x, "float32", Path(folder) / "network.onnx")
                row = Row(
                    "network", f"mb{batch}ic3ih{size}", "float32", "nhwc", name, f"{algorithm}, {threads} threads",
                    group=f"{threads} thread{'s' if threads != 1 else ''}", name=network.title, batch=batch,
                )  # fmt: skip
                made.append(Contender(row, _on_threads(threads, call)))
            pairs.append((made[0], made[1]))
        contenders = [contender for pair in pairs for contender in pair]
        with torch.inference_mode():
            for contender in contenders:
                truth.judge(contender)
            calls = {str(id(contender)): contender.call for contender in contenders if contender.row.correct}
            # In blocks even where all engines share torch's threads: their number changes from turn to turn.
            timings = timing.interleave(calls, settings.effort.for_own_threads())
    torch.set_num_threads(everything)
    for contender in contenders:
        if str(id(contender)) in timings:
            fill_times(contender.row, timings[str(id(contender))])
    for one, all_threads in pairs:
        keys = str(id(one)), str(id(all_threads))
        if all(key in timings for key in keys):
            all_threads.row.scaling = timings[keys[0]].over(timings[keys[1]])
    rows = [contender.row for pair in pairs for contender in pair]
    for column in zip(*pairs, strict=True):
        measured = {id(contender): timings[str(id(contender))] for contender in column if str(id(contender)) in timings}
        timed = [contender for contender in column if id(contender) in measured]
        compare([contender.row for contender in timed], list(measured.values()))
    for group in dict.fromkeys(row.group for row in rows):
        finish([row for row in rows if row.group == group], *count_work(model, x), settings)
    return rows


def _on_threads(threads: int, call: Callable[[], Any]) -> Callable[[], Any]:
    def on_threads() -> Any:
        torch.set_num_threads(threads)
        return call()

    return on_threads
