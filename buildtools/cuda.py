"""How the CUDA kernels are compiled by nvcc: for which GPUs, with which flags, linked to what."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from .compile import Task

ROOT = Path(__file__).resolve().parent.parent

# Machine code: sm_80 (mma.sync and cp.async) also runs on 8.6 and 8.9; sm_90a has Hopper's own instructions, which
# code for plain sm_90 may not contain. PTX for the driver to compile: 8.0 for GPUs newer than Hopper, 7.5 for Turing,
# so that no GPU from there on finds no kernel image. Kernels that need more than a GPU has are refused by their tables.
ARCHITECTURES = ("7.5+PTX", "8.0", "8.0+PTX", "9.0a")

NVCC_FLAGS = [
    "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "--expt-relaxed-constexpr",
]  # fmt: skip


def gencode_flags(architectures: tuple[str, ...]) -> list[str]:
    """Machine code for "8.0", PTX for "8.0+PTX": unlike torch's list, where the latter asks for both."""
    flags = []
    for architecture in architectures:
        number = architecture.removesuffix("+PTX").replace(".", "")
        code = "compute" if architecture.endswith("+PTX") else "sm"
        flags.append(f"-gencode=arch=compute_{number},code={code}_{number}")
    return flags


def wanted_architectures() -> tuple[str, ...]:
    """TORCH_CUDA_ARCH_LIST, in torch's spelling ("8.0;9.0a+PTX"), or the default."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";").split(";")
    wanted: list[str] = []
    for entry in listed:
        if re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", entry):
            wanted += [entry.removesuffix("+PTX")] + ([entry] if entry.endswith("+PTX") else [])
    return tuple(dict.fromkeys(wanted)) or ARCHITECTURES


def tasks(build_dir: Path, nvcc: str, extra_flags: list[str] | None = None) -> list[Task]:
    """One object for each .cu file, and the table that exports them; for linking into fastconv/_C with -lcudart."""
    flags = [*NVCC_FLAGS, *gencode_flags(wanted_architectures()), *(extra_flags or [])]
    folder = ROOT / "csrc" / "cuda"
    kernels = [Task.of(source, build_dir / "cuda", flags, nvcc) for source in sorted(folder.glob("*.cu"))]
    host_flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    return [*kernels, Task.of(folder / "backend.cpp", build_dir / "cuda", host_flags)]


def link_flags(nvcc: str) -> list[str]:
    """The static CUDA runtime, so that there is no version of a shared one to agree with; from where nvcc has it."""
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    libraries = re.search(r"^#\$ LIBRARIES=(.*)$", plan, re.MULTILINE)
    folders = shlex.split(libraries[1]) if libraries else []
    return [*folders, "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
