"""Builds fastconv/_emulated.so: the CUDA kernels compiled by the host compiler, with the emulator that runs them.

    python -m buildtools.emulated                                  # fastconv/_emulated.so
    python -m buildtools.emulated --program -o saxpy saxpy.cu      # somebody else's kernels, with the same emulator

Needs neither torch nor a CUDA toolkit. docs/emulator.md tells how it works, and how to use it for other kernels.
"""

import argparse
import shlex
import subprocess
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


def obstacle() -> str | None:
    """Why the emulator cannot be built here, or None. It reads ELF files, and its flags are g++'s."""
    if sys.platform != "linux":
        return f"the emulator runs on Linux, and this is {sys.platform}"
    compiler = default_compiler()
    try:
        answer = subprocess.run([*shlex.split(compiler), "--version"], capture_output=True, text=True)
    except FileNotFoundError:
        return f"{compiler} was not found"
    return None if "Free Software Foundation" in answer.stdout else f"the emulator needs g++, and {compiler} is another"


def build(output: Path, build_dir: Path) -> Path:
    """fastconv/_emulated.so, or a copy of it elsewhere. Keeps what is up to date in `build_dir`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    link(compile_all(tasks(build_dir)), output, LINK_FLAGS, default_compiler())
    return output


def build_own(sources: list[Path], output: Path, build_dir: Path, program: bool) -> Path:
    """Other people's .cu files with the emulator: a shared library, or a program."""
    own = [Task.of(source.resolve(), build_dir / "own", [*KERNEL_FLAGS, f"-I{ROOT}"]) for source in sources]
    objects = compile_all(emulator_tasks(build_dir / "emulated") + own)
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = ["-no-pie"] if program else ["-shared"]
    command = [*shlex.split(default_compiler()), *kind, *map(str, objects), *LINK_FLAGS, "-o", str(output)]
    subprocess.run(command, check=True)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m buildtools.emulated", description="Build emulated CUDA kernels.")
    parser.add_argument("sources", nargs="*", type=Path, help=".cu files; none: fastconv's own")
    parser.add_argument("-o", "--output", type=Path, help="default: fastconv/_emulated.so")
    parser.add_argument("--program", action="store_true", help="the sources have a main()")
    arguments = parser.parse_args()
    output = (arguments.output or ROOT / "fastconv" / "_emulated.so").resolve()
    if arguments.sources and arguments.output is None:
        parser.error("own sources need --output")
    if reason := obstacle():
        raise SystemExit(f"buildtools.emulated: {reason}")
    if arguments.sources:
        print(build_own(arguments.sources, output, ROOT / "build", arguments.program))
    else:
        print(build(output, ROOT / "build"))


if __name__ == "__main__":
    main()
