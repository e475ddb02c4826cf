"""The machine a number was measured on: its name, its software, and its measured arithmetic and memory limits."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch

# Large enough that no cache short of a server's shared last level keeps it between two passes.
COPY_BYTES = 256 << 20


class MeasurementUnavailable(RuntimeError):
    """The extension was built without the measuring loops, or is not built at all."""


def _measure(name: str, argument: int) -> float:
    try:
        from fastconv import _C
    except ImportError as error:
        raise MeasurementUnavailable(f"{name}: the compiled extension is not available ({error})") from error
    probe = getattr(_C, name, None)
    if probe is None:
        raise MeasurementUnavailable(f"{name}: the compiled extension has no such measurement; rebuild fastconv")
    try:
        # The best of several: a ceiling is what the machine can do, not what it did while others were using it.
        return max(float(probe(argument)) for _ in range(3))
    except NotImplementedError as error:
        raise MeasurementUnavailable(str(error)) from error


@functools.cache
def fma_peak_gflops(threads: int) -> float:
    """float32 GFLOP/s that `threads` threads reach on nothing but fused multiply-adds in registers, measured now."""
    return _measure("measure_fma_gflops", threads)


@functools.cache
def copy_gbs(size: int = COPY_BYTES) -> float:
    """GB/s (bytes read plus bytes written) of a plain copy of `size` bytes on torch's threads, measured now."""
    return _measure("measure_copy_gbs", size)


def ceilings(threads: int) -> dict[str, float | str | None]:
    """Both measured limits for `threads` threads, or None for each with the reason under `unavailable`."""
    try:
        return {"fma_gflops": fma_peak_gflops(threads), "copy_gbs": copy_gbs(), "unavailable": None}
    except MeasurementUnavailable as error:
        return {"fma_gflops": None, "copy_gbs": None, "unavailable": str(error)}


def cpu_name() -> str:
    """The processor's marketing name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(match.group(1).split()) if match else platform.processor() or platform.machine()


def cpu_count() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """Names of the visible GPUs."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def build_facts() -> dict[str, Any]:
    """`fastconv.build_info()` as a plain dictionary, or an empty one without the compiled extension."""
    import fastconv

    try:
        info = fastconv.build_info()
    except (ImportError, AttributeError):
        return {}
    return dict(info) if isinstance(info, Mapping) else {"build": str(info)}


def git_sha() -> str | None:
    """The commit of the checkout that fastconv is imported from, with `-dirty` where files differ from it."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions of everything whose change could change a number."""
    import fastconv

    found = {
        "fastconv": getattr(fastconv, "__version__", None) or package_version("fastconv"),
        "git": git_sha(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
    for peer in ("onnxruntime", "openvino", "triton"):
        if (version := package_version(peer)) is not None:
            found[peer] = version
    return found


def describe() -> dict[str, Any]:
    """The machine, without measuring anything."""
    return {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "gpus": gpu_names(),
        "isa": build_facts().get("isa"),
    }


def slug() -> str:
    """A folder name for this machine's results, such as `amd-epyc-9b14-2-cores`."""
    name = re.sub(r"\((?:r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", cpu_name().lower())
    name = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "unknown"
    gpus = gpu_names()
    suffix = "-" + re.sub(r"[^a-z0-9]+", "-", gpus[0].lower()).strip("-") if gpus else ""
    return f"{name}-{cpu_count()}-cores{suffix}"


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Runs the body with `count` torch threads (None keeps the number) and yields the number in force."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
