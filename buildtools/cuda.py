"""Compiles the CUDA kernels with nvcc: for the extension, and on its own as a check (make cuda-check).

    python -m buildtools.cuda

prints registers, spills and shared memory of every kernel, and exits with 1 when a kernel spills. It needs nvcc, but
neither a GPU nor a torch built with CUDA.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .compile import Task
from .cuda_choice import find_nvcc

ROOT = Path(__file__).resolve().parent.parent

# sm_80: mma.sync and cp.async; sm_90a: Hopper's own instructions, which PTX for plain sm_90 may not contain.
ARCHITECTURES = ("8.0", "9.0a")

NVCC_FLAGS = [
    "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "--expt-relaxed-constexpr",
]  # fmt: skip


def gencode_flags(architectures: tuple[str, ...]) -> list[str]:
    """Machine code for each architecture, and PTX of the newest plain one, so that later GPUs can compile it."""
    flags = []
    for architecture in architectures:
        number = architecture.replace(".", "").replace("+PTX", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
    plain = [a.replace(".", "").replace("+PTX", "") for a in architectures if not a.endswith(("a", "f"))]
    if plain:
        newest = max(plain, key=int)
        flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return flags


def wanted_architectures() -> tuple[str, ...]:
    """TORCH_CUDA_ARCH_LIST, in torch's spelling ("8.0;9.0a+PTX"), or the default."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";").split(";")
    numeric = tuple(entry for entry in listed if re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", entry))
    return numeric or ARCHITECTURES


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


@dataclass(frozen=True)
class KernelUsage:
    name: str
    architecture: str
    registers: int
    spill_bytes: int
    shared_bytes: int


def parse_usage(log: str) -> list[KernelUsage]:
    """The kernels in the output of ptxas -v, in order."""
    usages = []
    for entry in re.split(r"Compiling entry function ", log)[1:]:
        head = re.match(r"'(\S+)' for '(\w+)'", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        if head is None or registers is None:
            continue
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", entry)]
        shared = re.search(r"(\d+) bytes smem", entry)
        usages.append(
            KernelUsage(head[1], head[2], int(registers[1]), sum(spills), int(shared[1]) if shared else 0)
        )  # fmt: skip
    return usages


def readable(names: list[str]) -> list[str]:
    """Demangled and shortened, where c++filt is at hand."""
    if shutil.which("c++filt") is None or not names:
        return names
    answer = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = []
    for name in answer.stdout.splitlines():
        name = name.replace("fastconv::cuda::", "").replace("fastconv::activations::", "").replace("fastconv::", "")
        short.append(re.sub(r"^void |\((?:int|bool)\)|\([^()]*\)$", "", name))
    return short


def check() -> int:
    found = find_nvcc()
    if found is None:
        print("cuda-check: nvcc was not found (set CUDA_HOME); nothing was checked")
        return 1
    nvcc, release = found
    build_dir = ROOT / "build" / "cuda_check"
    usages: list[KernelUsage] = []
    for task in tasks(build_dir, nvcc, ["-Xptxas=-v"])[:-1]:
        # The figures come with the compilation, so it is always done.
        task.object.unlink(missing_ok=True)
        task.object.parent.mkdir(parents=True, exist_ok=True)
        print(f"cuda-check: nvcc {release}: {task.source.relative_to(ROOT)}", flush=True)
        answer = subprocess.run(task.command, capture_output=True, text=True)
        if answer.returncode != 0:
            print(answer.stdout + answer.stderr, file=sys.stderr)
            return 1
        for line in answer.stderr.splitlines():
            if "warning" in line:
                print(line)
        usages += parse_usage(answer.stderr)
    print(f"{'architecture':<13}{'registers':>10}{'spills':>8}{'shared':>8}  kernel")
    rows = zip(usages, readable([usage.name for usage in usages]), strict=True)
    for usage, name in sorted(rows, key=lambda row: (row[1], row[0].architecture)):
        print(
            f"{usage.architecture:<13}{usage.registers:>10}{usage.spill_bytes:>8}{usage.shared_bytes:>8}  {name}"
        )  # fmt: skip
    spilling = [usage for usage in usages if usage.spill_bytes]
    print(f"cuda-check: {len(usages)} kernels, {len(spilling)} spill")
    return 1 if spilling or not usages else 0


if __name__ == "__main__":
    raise SystemExit(check())
