"""Everything that needs a GPU, in one command for a machine that has one and no network:

    make gpu-check            (or: python -m buildtools.gpu_check [--minutes 10] [--only STEP ...])

builds for this machine's GPU, verifies every kernel of the backends cuda and triton against the reference, runs
compute-sanitizer over one case per kernel, measures, and runs the tests. What it saw goes to bench/results/<gpu>/.
Steps run in the order of their worth; when the time is used up the rest is left out, and the record says so. Uses the
Python it is run with: nothing is installed but the build in place.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .cuda_choice import find_nvcc

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
PYTHON = sys.executable


@dataclass
class Step:
    """One command and how it ended."""

    name: str
    command: list[str]
    code: int | None = None  # None: left out
    seconds: float = 0.0
    tail: str = ""


def steps(folder: Path, cores: int) -> list[Step]:
    """In order: a kernel that is wrong is worth more than a figure of a kernel that may be."""
    fastconv = [PYTHON, "-m", "fastconv"]
    verify = [*fastconv, "verify", "--backend"]
    pytest = [PYTHON, "-m", "pytest", "-q"]
    parallel = ["-n", str(min(cores, 8))] if _has("xdist") else []
    listed = [
        Step("build", [PYTHON, "setup.py", "build_ext", "--inplace"]),
        Step("verify cuda", [*verify, "cuda", "--json", str(folder / "verify-cuda.json")]),
        Step("gpu tests", [*pytest, "tests/test_on_gpu.py", "tests/test_graphs_on_gpu.py"]),
        Step("verify triton", [*verify, "triton", "--json", str(folder / "verify-triton.json")]),
    ]
    # Where it is missing its steps fail, and say so: left out silently they would look like a pass.
    sanitizer = [find_sanitizer(), "--error-exitcode", "9", "--target-processes", "all", "--tool"]
    listed += [Step(tool, [*sanitizer, tool, *verify, "cuda", "--one-per-kernel"]) for tool in SANITIZERS]
    listed += [
        Step("bench", [*fastconv, "bench", "--suite", "gpu", "--backend", "cuda", "--layout", "nhwc", "--output",
                       str(folder)]),
        Step("networks", [*fastconv, "bench", "--suite", "networks", "--backend", "cuda", "--dtype", "bfloat16",
                          "--layout", "nhwc", "--output", str(folder)]),
        Step("tests", [*pytest, "tests", *parallel]),
    ]  # fmt: skip
    return listed


def find_sanitizer() -> str:
    """On PATH, or beside nvcc, where the toolkit has it."""
    found = find_nvcc()
    beside = Path(found[0]).resolve().parent / "compute-sanitizer" if found else None
    return str(beside) if beside and beside.is_file() else shutil.which("compute-sanitizer") or "compute-sanitizer"


def _has(module: str) -> bool:
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0


def gpu_name() -> str:
    """The folder's name: "NVIDIA H200" -> "h200". Raises SystemExit where there is no GPU."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    answer = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    name = answer.stdout.strip()
    if not name:
        raise SystemExit("gpu-check: torch sees no CUDA device here; nothing was checked\n" + answer.stderr)
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def run(step: Step, limit: float, environment: dict[str, str]) -> None:
    """Runs a step for at most `limit` seconds, its output shown and its end kept."""
    print(f"\n=== {step.name}: {' '.join(step.command)}", flush=True)
    started = time.perf_counter()
    try:
        # A session of its own: what the command has started must not outlive it on the GPU that is measured next.
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
            step.code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            step.code = 124
    except FileNotFoundError as error:
        step.code, output = 127, str(error)
    step.seconds = time.perf_counter() - started
    step.tail = "\n".join(output.splitlines()[-40:])
    print(step.tail, f"\n--- {step.name}: exit {step.code} after {step.seconds:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m buildtools.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="only these steps")
    parser.add_argument("--output", type=Path, help="folder of the results (default: bench/results/<gpu>)")
    arguments = parser.parse_args()
    deadline = time.perf_counter() + 60 * arguments.minutes
    gpu = gpu_name()
    folder = (arguments.output or ROOT / "bench" / "results" / gpu).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    environment = {**os.environ, "MAX_JOBS": os.environ.get("MAX_JOBS", str(cores)), "FASTCONV_CUDA": "1"}
    planned = [step for step in steps(folder, cores) if not arguments.only or step.name in arguments.only]
    if not planned:
        raise SystemExit(
            f"gpu-check: expected --only to name steps of {', '.join(s.name for s in steps(folder, cores))}"
        )
    for step in planned:
        left = deadline - time.perf_counter()
        if left < 5:
            print(f"=== {step.name}: left out, the time is used up")
            continue
        run(step, left, environment)
        if step.name == "build" and step.code:
            break
    facts = subprocess.run([PYTHON, "-m", "fastconv", "info"], cwd=ROOT, capture_output=True, text=True).stdout
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "gpu": gpu,
        "info": facts.splitlines(),
        "steps": [asdict(step) for step in planned],
    }
    path = folder / f"{record['date'][:10]}-gpu-check.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nrecord: {path}")
    for step in planned:
        outcome = "left out" if step.code is None else "ok" if step.code == 0 else f"exit {step.code}"
        print(f"  {step.name:<16}{outcome:>10}  {step.seconds:6.0f} s")
    return 0 if all(step.code == 0 for step in planned) else 1


if __name__ == "__main__":
    raise SystemExit(main())
