"""What nvcc makes of the kernels, without a GPU and with any torch:

    python -m buildtools.cuda_check [--json PATH] [FILE.cu ...]

prints registers, spills, static shared memory and the instructions that matter of every kernel and architecture. Exits
with 1 when a kernel spills, lacks an instruction that its name promises (EXPECTED), or was not compiled as it is
written (NOT_AS_WRITTEN).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .compile import jobs
from .cuda import NVCC_FLAGS, ROOT, gencode_flags
from .cuda_choice import find_nvcc

# With Turing, whose code a driver compiles from the PTX that is shipped.
ARCHITECTURES = ("7.5", "8.0", "9.0a")

# SASS mnemonics worth a column: multiply-adds on CUDA cores, in packed halves, on tensor cores (warp, warpgroup), and
# asynchronous and matrix loads and stores, registers that change hands.
SHOWN = ("FFMA", "HFMA2", "DFMA", "HMMA", "HGMMA", "LDGSTS", "LDSM", "STSM", "UTMALDG", "UTMASTG", "USETMAXREG")
# What a kernel's name promises, as a pattern of it, and on which architectures: without these instructions it is not
# what it says it is. Copies by the element have no asynchronous form in 16 bits; ldmatrix turns 16-bit elements only.
_WGMMA_CHUNKS = r"\w*wgmma_kernel<WgmmaConfig<(half_t|bfloat16_t).*(Channel|WgmmaResidual|WgmmaMoments)Epilogue"
_MMA_CHUNKS = r"(gemm|conv|weight_grad|grouped)\w*_mma_kernel<MmaConfig<(half_t|bfloat16_t)(?!.*ElementLoader)"
EXPECTED: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (r"\w*mma_kernel<(?!Wgmma)", ("sm_80", "sm_90a"), ("HMMA",)),
    (_MMA_CHUNKS, ("sm_80", "sm_90a"), ("LDGSTS", "LDSM")),
    (r"fused_block_mma_kernel", ("sm_80", "sm_90a"), ("LDGSTS", "LDSM")),
    (r"\w*wgmma_kernel", ("sm_90a",), ("HGMMA", "UTMALDG", "USETMAXREG")),
    (_WGMMA_CHUNKS, ("sm_90a",), ("STSM", "UTMASTG")),
)
# What ptxas says, among its information, where it could not keep warpgroup multiplications in flight (C7510 and its
# kin), or leaves the registers of warpgroups as they are.
NOT_AS_WRITTEN = re.compile(r"\(C75\d\d\)|'setmaxnreg' ignored")


@dataclass
class KernelUsage:
    """One kernel for one architecture."""

    name: str
    architecture: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """One source file: its kernels, what the compilers said, how long they took."""

    source: Path
    usages: list[KernelUsage]
    log: str
    seconds: float
    ok: bool


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
        usages.append(KernelUsage(head[1], head[2], int(registers[1]), sum(spills), int(shared[1]) if shared else 0))
    return usages


def parse_instructions(listing: str) -> dict[tuple[str, str], Counter[str]]:
    """How often each mnemonic of SHOWN stands in each (kernel, architecture) of cuobjdump's listing."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    architecture, counter = "", Counter[str]()
    for line in listing.splitlines():
        if found := re.match(r"\s*code for (sm_\w+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            counter = counts.setdefault((found[1], architecture), Counter())
        else:
            found = re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", line)
            if found is not None and found[1] in SHOWN:
                counter[found[1]] += 1
    return counts


def find_cuobjdump(nvcc: str) -> str | None:
    """Beside nvcc, on PATH, or in the triton package, which ships one."""
    candidates = [Path(nvcc).resolve().parent / "cuobjdump"]
    candidates += [Path(path) / "triton/backends/nvidia/bin/cuobjdump" for path in sys.path]
    return next((str(path) for path in candidates if path.is_file()), shutil.which("cuobjdump"))


def readable(names: list[str]) -> list[str]:
    """Demangled and shortened, where c++filt is at hand."""
    if shutil.which("c++filt") is None or not names:
        return names
    answer = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = []
    for name in answer.stdout.splitlines():
        name = re.sub(r"fastconv::(?:cuda::|activations::)?|\(anonymous namespace\)::", "", name)
        name = re.sub(r"^void |\((?:int|bool)\)", "", name)
        short.append(re.sub(r">\(.*\)$|(?<!>)\([^()]*\)$", lambda end: end[0][:1].replace("(", ""), name))
    return short


def compile_one(source: Path, nvcc: str, cuobjdump: str | None, folder: Path) -> Compiled:
    """Always compiles: the figures come with the compilation."""
    output = folder / f"{source.stem}.o"
    flags = [*NVCC_FLAGS, *gencode_flags(ARCHITECTURES), "-Xptxas=-v"]
    started = time.perf_counter()
    answer = subprocess.run([nvcc, *flags, "-c", str(source), "-o", str(output)], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    usages = parse_usage(answer.stderr)
    if answer.returncode == 0 and cuobjdump is not None and usages:
        listing = subprocess.run([cuobjdump, "-sass", str(output)], capture_output=True, text=True)
        counts = parse_instructions(listing.stdout)
        for usage in usages:
            usage.instructions = dict(counts.get((usage.name, usage.architecture), {}))
    for usage, name in zip(usages, readable([usage.name for usage in usages]), strict=True):
        usage.name = name
    return Compiled(source, usages, answer.stdout + answer.stderr, seconds, answer.returncode == 0)


def complaints(usages: list[KernelUsage], disassembled: bool, log: str = "") -> list[str]:
    """What is wrong with these kernels, one text each; `log` is what the compilers said."""
    found = [line.strip() for line in log.splitlines() if NOT_AS_WRITTEN.search(line)]
    found += [f"{u.architecture} {u.name}: {u.spill_bytes} bytes spilled" for u in usages if u.spill_bytes]
    if disassembled:
        for usage in usages:
            for pattern, architectures, wanted in EXPECTED:
                if usage.architecture in architectures and re.match(pattern, usage.name):
                    lacking = [name for name in wanted if not usage.instructions.get(name)]
                    if lacking:
                        found.append(f"{usage.architecture} {usage.name}: no {', '.join(lacking)}")
    return found


def print_table(usages: list[KernelUsage]) -> None:
    print(f"{'architecture':<13}{'registers':>10}{'spills':>8}{'shared':>8}  kernel  [instructions]")
    for usage in sorted(usages, key=lambda u: (u.name, u.architecture)):
        counts = " ".join(f"{name} {usage.instructions[name]}" for name in SHOWN if usage.instructions.get(name))
        figures = f"{usage.architecture:<13}{usage.registers:>10}{usage.spill_bytes:>8}{usage.shared_bytes:>8}"
        print(f"{figures}  {usage.name}  [{counts}]")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m buildtools.cuda_check", description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, help=".cu files (default: all of csrc/cuda)")
    parser.add_argument("--json", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    found = find_nvcc()
    if found is None:
        print("cuda-check: nvcc was not found (set CUDA_HOME); nothing was checked")
        return 1
    nvcc, release = found
    cuobjdump = find_cuobjdump(nvcc)
    if cuobjdump is None:
        print("cuda-check: cuobjdump was not found (the triton package has one); instructions are not checked")
    folder = ROOT / "build" / "cuda_check"
    folder.mkdir(parents=True, exist_ok=True)
    sources = arguments.sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu"), key=os.path.getsize, reverse=True)
    started = time.perf_counter()
    usages: list[KernelUsage] = []
    log = ""
    with ThreadPoolExecutor(jobs()) as pool:
        for one in pool.map(lambda source: compile_one(source, nvcc, cuobjdump, folder), sources):
            print(f"cuda-check: nvcc {release}: {one.source.name}: {len(one.usages)} kernels, {one.seconds:.0f} s")
            if not one.ok:
                print(one.log, file=sys.stderr)
                return 1
            for line in one.log.splitlines():
                if "warning" in line:
                    print(line)
            usages += one.usages
            log += one.log
    print_table(usages)
    wrong = complaints(usages, cuobjdump is not None, log)
    for text in wrong:
        print(f"cuda-check: {text}")
    seconds = time.perf_counter() - started
    print(f"cuda-check: {len(usages)} kernels in {seconds:.0f} s, {len(wrong)} complaints")
    if arguments.json:
        document = {"nvcc": release, "seconds": seconds, "kernels": [asdict(usage) for usage in usages]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong or not usages else 0


if __name__ == "__main__":
    raise SystemExit(main())
