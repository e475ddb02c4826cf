"""Memory of one call and of the whole process, as the operating system and the kernels count it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastconv.convert import ConvertedModule

Call = Callable[[], object]
_MIB = float(1 << 20)
_PROBE = Path(__file__).with_name("memory_probe.py")


def peak_rss_bytes() -> int:
    """The process's resident-memory high-water mark."""
    status = _read("/proc/self/status")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # bytes on macOS, KiB elsewhere


def extra_memory_bytes(call: Call, device: str = "cpu") -> int | None:
    """How far resident memory (device memory on a GPU) rises above where it stood while `call` runs once.

    The output counts, and so does scratch. None where the system cannot reset its high-water mark (only Linux can).
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    # Memory freed earlier but still held by malloc would hide what the call takes; hand it back first.
    _trim_heap()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM to the current VmRSS
    except OSError:
        return None
    before = peak_rss_bytes()
    call()
    return max(0, peak_rss_bytes() - before)


def workspace_bytes(call: Call) -> int | None:
    """Scratch that our kernels take while `call` runs once, by their own account; None without the extension."""
    try:
        from fastconv import _C
    except ImportError:
        return None
    _C.reset_peak_workspace_bytes()
    call()
    return int(_C.peak_workspace_bytes())


def converted_memory(converted: ConvertedModule) -> dict[str, float]:
    """MiB that a converted network holds beside the model: `weights_mib` packed, `folded_mib` of weights folded for
    layers that run outside a plan, `arena_mib` for activations."""
    held = converted.memory()
    return {"weights_mib": held.packed / _MIB, "folded_mib": held.folded / _MIB, "arena_mib": held.arenas / _MIB}


def memory_of(job: dict[str, Any]) -> dict[str, Any]:
    """Memory and first calls of an engine in a fresh process, see memory_probe.py.

    Args:
        job: `engine` (fastconv, torch, onnxruntime or openvino), `network` (a name), `shape` of the input, `dtype`,
            `threads`; for the engines that load files `network` and `tiny` are ONNX files, and `settings` OpenVINO's.

    Raises:
        RuntimeError: the process failed; the last line that it wrote is the reason.
    """
    package = Path(__file__).resolve().parents[2]
    # The script's own folder must not be searched for modules, and the package must be found from anywhere.
    start = (
        f"import sys, runpy; sys.path.insert(0, {str(package)!r}); runpy.run_path({str(_PROBE)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", start, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{job['engine']}: {lines[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _trim_heap() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not glibc: the figure is then a lower bound
        ctypes.CDLL(None).malloc_trim(0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
