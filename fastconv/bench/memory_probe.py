"""Memory and first calls of one engine in a process of its own: `python memory_probe.py JSON` prints a JSON line.

The baseline is the resident memory of the process once the engine has run a network of one layer, which takes its code
and its threads; what the network adds to it is the network's. onnxruntime and OpenVINO are loaded without torch, as
they are deployed, which is why this file imports neither torch nor fastconv at its top.
"""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CALLS = 8


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the job that `memory_of` describes."""
    load = {"onnxruntime": _onnxruntime, "openvino": _openvino}.get(job["engine"], _torch)(job)
    load("tiny").call()
    _forget_peak()
    baseline = _status("VmRSS")
    started = time.perf_counter()
    loaded = load("network")
    prepare_s = time.perf_counter() - started - loaded.model_s
    started = time.perf_counter()
    call = loaded.call
    call()
    first = time.perf_counter() - started
    later = []
    for _ in range(_CALLS):
        before = time.perf_counter()
        call()
        later.append(time.perf_counter() - before)
    return {
        "prepare_s": prepare_s,
        "first_ms": 1e3 * first,
        "later_ms": 1e3 * statistics.median(later),
        "baseline_mib": baseline,
        "peak_mib": _status("VmHWM") - baseline,
        "resident_mib": _status("VmRSS") - baseline,
        **loaded.held(),
    }


@dataclass
class Loaded:
    """A network ready to be called; `model_s` is what building it in Python took, which is not the engine's."""

    call: Callable[[], object]
    model_s: float = 0.0
    held: Callable[[], dict[str, float]] = dict  # what the engine says of its own memory


def _torch(job: dict[str, Any]) -> Callable[[str], Loaded]:
    import torch

    import fastconv
    from fastconv.bench.memory import converted_memory
    from fastconv.bench.networks import NETWORKS

    torch.set_num_threads(job["threads"])
    dtype = getattr(torch, job["dtype"])

    def load(which: str) -> Loaded:
        started = time.perf_counter()
        if which == "tiny":
            layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
            model: torch.nn.Module = torch.nn.Sequential(*layers).eval()
        else:
            model = NETWORKS[job["network"]].build()
        x = torch.ones(job["shape"]).contiguous(memory_format=torch.channels_last)
        model_s = time.perf_counter() - started
        held: Callable[[], dict[str, float]] = dict
        if job["engine"] == "fastconv":
            converted = fastconv.convert(model, (x,), dtype=None if dtype == torch.float32 else dtype)
            run: torch.nn.Module = converted
            held = functools.partial(converted_memory, converted)
        else:
            run, x = model.to(dtype, memory_format=torch.channels_last), x.to(dtype)  # type: ignore[call-overload]

        def call() -> object:
            with torch.inference_mode():
                return run(x)

        return Loaded(call, model_s, held)

    return load


def _onnxruntime(job: dict[str, Any]) -> Callable[[str], Loaded]:
    import numpy
    import onnxruntime

    def load(which: str) -> Loaded:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        session = onnxruntime.InferenceSession(job[which], options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: numpy.ones(job["shape"], numpy.float32)}
        return Loaded(lambda: session.run(None, feed))

    return load


def _openvino(job: dict[str, Any]) -> Callable[[str], Loaded]:
    import numpy
    import openvino

    core, x = openvino.Core(), numpy.ones(job["shape"], numpy.float32)

    def load(which: str) -> Loaded:
        request = core.compile_model(core.read_model(job[which]), "CPU", job["settings"]).create_infer_request()
        return Loaded(lambda: request.infer([x], share_inputs=True))

    return load


def _status(field: str) -> float:
    """MiB that /proc/self/status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # then the peak of loading the engine counts too
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
