"""Builds fastconv/_emulated.so: the CUDA kernels compiled by the host compiler, with the emulator that runs them.

    python -m buildtools.emulated [OUTPUT]

Needs neither torch nor a CUDA toolkit. docs/emulator.md tells how it works, and how to use it for other kernels.
"""

import sys
from pathlib import Path

from .compile import Task, compile_all, default_compiler, link

ROOT = Path(__file__).resolve().parent.parent

COMMON_FLAGS = [
    "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-DFASTCONV_EMULATED",
    "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas",
]  # fmt: skip

# Kernels: every memory access calls the checker (csrc/emulator/instrumentation.cpp), and stays what the source says.
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-fsanitize=thread", "-fsanitize=bounds",
    # Vector accesses stay whole: splitting them would hide misalignment, merging them would invent it.
    "-fno-tree-sra", "-fno-tree-vectorize",
    # __shared__ is thread_local of constant initialisation: no wrapper functions; and CUDA code puns types freely.
    "-fno-extern-tls-init", "-fno-strict-aliasing",
    # g++ does not instrument a store of a class-type result of a call that stays a call: leave no such call.
    "-finline-functions", "--param=max-inline-insns-auto=100000", "--param=max-inline-insns-single=100000",
    "--param=early-inlining-insns=100000", "--param=inline-unit-growth=100000",
    "--param=large-function-growth=100000", "--param=large-function-insns=1000000",
    "-x", "c++",
]  # fmt: skip

# Nothing but the C++ runtime: a missing __tsan_ function is an error here, not at the first use.
LINK_FLAGS = ["-Wl,--no-undefined", "-Wl,-O1"]


def emulator_tasks(build_dir: Path) -> list[Task]:
    """The runtime, not instrumented."""
    return [Task.of(source, build_dir, COMMON_FLAGS) for source in sorted((ROOT / "csrc" / "emulator").glob("*.cpp"))]


def kernel_tasks(build_dir: Path) -> list[Task]:
    """Every .cu file of csrc/cuda, instrumented, and the table that exports them."""
    cuda = ROOT / "csrc" / "cuda"
    kernels = [Task.of(source, build_dir, KERNEL_FLAGS) for source in sorted(cuda.glob("*.cu"))]
    return [*kernels, Task.of(cuda / "backend.cpp", build_dir, COMMON_FLAGS)]


def tasks(build_dir: Path) -> list[Task]:
    """All of the library, in the order to link in.

    The runtime comes first: where both sides have the same inline function of the standard library, the linker keeps
    the first copy, and the runtime must not be watched by itself.
    """
    return emulator_tasks(build_dir / "emulated") + kernel_tasks(build_dir / "emulated")


def build(output: Path, build_dir: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    link(compile_all(tasks(build_dir)), output, LINK_FLAGS, default_compiler())
    return output


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "fastconv" / "_emulated.so"
    print(build(target.resolve(), ROOT / "build"))
