"""Compiles C++ files in parallel and links them; an object that is newer than all it was made from is kept."""

import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


def default_compiler() -> str:
    return os.environ.get("CXX", "c++")


@dataclass
class Task:
    source: Path
    object: Path
    flags: list[str] = field(default_factory=list)
    compiler: str = field(default_factory=default_compiler)
    # nvcc spells the dependency options as the host compilers do.
    dependency_flags: tuple[str, ...] = ("-MMD", "-MF")

    @classmethod
    def of(cls, source: Path, build_dir: Path, flags: list[str], compiler: str | None = None) -> "Task":
        name = f"{source.parent.name}_{source.stem}.o"
        return cls(source, build_dir / name, flags, compiler or default_compiler())

    @property
    def depfile(self) -> Path:
        return self.object.with_suffix(".d")

    @property
    def command(self) -> list[str]:
        return [
            *shlex.split(self.compiler), *self.flags, *self.dependency_flags, str(self.depfile),
            "-c", str(self.source), "-o", str(self.object),
        ]  # fmt: skip


def _dependencies(depfile: Path) -> list[Path]:
    text = depfile.read_text().replace("\\\n", " ")
    return [Path(name) for name in shlex.split(text.partition(":")[2])]


def up_to_date(product: Path, command: list[str], dependencies: list[Path]) -> bool:
    """Whether `product` was made by this very command, from files that have not changed since."""
    record = product.with_suffix(product.suffix + ".command")
    if not product.exists() or not record.exists() or record.read_text() != shlex.join(command):
        return False
    made = product.stat().st_mtime_ns
    return all(path.exists() and path.stat().st_mtime_ns <= made for path in dependencies)


def _run(command: list[str], product: Path) -> None:
    product.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(command, capture_output=True, text=True)
    output = (result.stdout + result.stderr).strip()
    if output:
        print(output, file=sys.stderr, flush=True)
    if result.returncode != 0:
        raise SystemExit(f"fastconv: failed: {shlex.join(command)}")
    product.with_suffix(product.suffix + ".command").write_text(shlex.join(command))


def _compile(task: Task) -> bool:
    try:
        fresh = task.depfile.exists() and up_to_date(task.object, task.command, _dependencies(task.depfile))
    except OSError:
        fresh = False
    if not fresh:
        print(f"fastconv: compiling {task.source.parent.name}/{task.source.name}", flush=True)
        _run(task.command, task.object)
    return not fresh


@contextmanager
def exclusive(build_dir: Path) -> Iterator[None]:
    """One build at a time in a folder; a second one waits, and then finds the objects made."""
    build_dir.mkdir(parents=True, exist_ok=True)
    with open(build_dir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def jobs() -> int:
    return max(1, int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1))


def compile_all(tasks: list[Task]) -> list[Path]:
    """The objects of all tasks, compiled where needed, MAX_JOBS at a time (default: one per CPU)."""
    with ThreadPoolExecutor(jobs()) as pool:
        list(pool.map(_compile, tasks))
    return [task.object for task in tasks]


def link(objects: list[Path], product: Path, flags: list[str], compiler: str | None = None) -> None:
    """Links a shared library unless it is up to date. Written beside and renamed: a running process keeps its copy."""
    partial = product.with_name(product.name + ".part")
    linker = shlex.split(compiler or default_compiler())
    command = [*linker, "-shared", *map(str, objects), *flags, "-o", str(partial)]
    record = objects[0].parent / (product.name + ".link")
    if product.exists() and record.exists() and record.read_text() == shlex.join(command):
        made = product.stat().st_mtime_ns
        if all(path.stat().st_mtime_ns <= made for path in objects):
            return
    print(f"fastconv: linking {product.name}", flush=True)
    _run(command, partial)
    partial.with_suffix(partial.suffix + ".command").unlink()
    partial.replace(product)
    record.write_text(shlex.join(command))
