"""Which C++ files are compiled, and with which flags. New files in csrc/cpu, csrc/plan and csrc/torch are found by
themselves.

A file whose name ends in the name of an instruction set (target_avx512.cpp) gets that set's flags, and is left out on
other processors; every other file must run on any CPU of the architecture.
"""

import functools
import platform
import shlex
import subprocess
import sysconfig
from pathlib import Path

from .compile import Task, default_compiler
from .torch_install import TorchInstall

ROOT = Path(__file__).resolve().parent.parent

# errno and floating-point traps are read by nobody; both would keep the compiler from vectorising. NaN and Inf count,
# so -ffast-math is out. Contraction into FMA is what the kernels are written for.
COMMON_FLAGS = [
    "-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi",
    # GCC 12 warns of its own AVX-512 header (GCC bug 105593).
    "-Wno-maybe-uninitialized", "-Wno-uninitialized",
]  # fmt: skip

_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "amx": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "avx512_bf16": [*_AVX512, "-mavx512bf16"],
    "avx512": _AVX512,
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
}

# torch 2.11's stable ABI: the binary serves every later torch, and no unstable header compiles.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


@functools.cache
def compiler_takes(flags: tuple[str, ...]) -> bool:
    """Whether the compiler knows flags that came late: without them such a file compiles to an empty table."""
    command = [*shlex.split(default_compiler()), *flags, "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True).returncode == 0


def isa_flags(isa: str | None) -> list[str]:
    flags = ISA_FLAGS.get(isa or "", [])
    return flags if isa not in ("amx", "avx512_bf16") or compiler_takes(tuple(flags)) else []


def isa_of(source: Path) -> str | None:
    return next((isa for isa in ISA_FLAGS if source.stem.endswith(isa)), None)


def cpu_tasks(build_dir: Path) -> list[Task]:
    tasks = []
    for source in sorted(path for folder in ("cpu", "plan") for path in (ROOT / "csrc" / folder).glob("*.cpp")):
        isa = isa_of(source)
        if isa is None or is_x86():
            tasks.append(Task.of(source, build_dir, COMMON_FLAGS + isa_flags(isa)))
    # The longest compilations first, so that they do not run alone at the end.
    return sorted(tasks, key=lambda task: not task.source.stem.startswith("target_"))


def torch_tasks(build_dir: Path, torch: TorchInstall, with_cuda: bool) -> list[Task]:
    includes = [f"-isystem{path}" for path in torch.include_dirs] + [f"-isystem{sysconfig.get_path('include')}"]
    flags = COMMON_FLAGS + includes + (["-DFASTCONV_WITH_CUDA", "-DUSE_CUDA"] if with_cuda else [])
    # torch's copy of pybind11 refuses the stable ABI's macro: the files that include it include nothing of torch.
    return [
        Task.of(source, build_dir, flags + ([] if source.stem.endswith("module") else TORCH_FLAGS))
        for source in sorted((ROOT / "csrc" / "torch").glob("*.cpp"))
    ]


def link_flags(torch: TorchInstall) -> list[str]:
    # `import torch` has loaded libtorch_cpu by the time _C is opened, so no run path is needed.
    return [f"-L{torch.library_dir}", "-ltorch_cpu", "-ldl", "-Wl,-O1"]
