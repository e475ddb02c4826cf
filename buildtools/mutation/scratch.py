"""A copy of the sources to break, and of the package around the library that is built from them."""

import enum
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .. import emulated
from ..compile import Task, default_compiler, link
from .edits import Mutant

ROOT = emulated.ROOT
SCRATCH = ROOT / "build" / "mutation"
REGULAR = ROOT / "build"


class Built(enum.Enum):
    """What became of a mutant in one compilation unit."""

    BROKEN = "does not compile"
    UNCHANGED = "the same machine code"
    CHANGED = "another library"


def prepare() -> None:
    """Builds what is not mutated, once; every mutant is that but for a few objects."""
    emulated.build(ROOT / "fastconv" / "_emulated.so", REGULAR)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    shutil.copytree(ROOT / "csrc", SCRATCH / "csrc")
    _thin_out()
    package = SCRATCH / "package" / "fastconv"
    package.mkdir(parents=True)
    for entry in (ROOT / "fastconv").iterdir():
        if entry.name not in ("_emulated.so", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    restore_library()


def _thin_out() -> None:
    """Leaves two element types in the scratch copy: half the compilation for each mutant, and as much to find."""
    path = SCRATCH / "csrc" / "common" / "dtypes.h"
    text = path.read_text()
    for name, storage in (("kFloat64", "double"), ("kBFloat16", "bfloat16_t")):
        case = f"    case DType::{name}:\n      return f(TypeTag<{storage}>{{}});\n"
        if case not in text:
            raise SystemExit(f"mutation: visit_dtype in {path.name} no longer reads as expected")
        text = text.replace(case, "")
    path.write_text(text)


def library() -> Path:
    """Where the package in the scratch folder looks for its kernels."""
    return SCRATCH / "package" / "fastconv" / "_emulated.so"


def restore_library() -> None:
    """The library without a mutation."""
    # A new file each time: a process may still have the old one mapped.
    library().unlink(missing_ok=True)
    shutil.copy(ROOT / "fastconv" / "_emulated.so", library())


def source(file: str) -> Path:
    """A source of csrc/cuda in the scratch folder."""
    return SCRATCH / "csrc" / "cuda" / file


def dependents(file: str) -> list[str]:
    """The .cu files that contain `file`, those that compile fastest first."""
    found = []
    for task in emulated.tasks(REGULAR):
        if task.source.suffix == ".cu" and str(ROOT / "csrc" / "cuda" / file) in _inputs(task):
            found.append((task.object.stat().st_size, task.source.name))
    return [name for _, name in sorted(found)]


def _inputs(task: Task) -> set[str]:
    return {str(Path(name).resolve()) for name in task.depfile.read_text().replace("\\\n", " ").split()[1:]}


def _compile(unit: str, suffix: str) -> Path | None:
    """The object of a .cu file of the scratch folder; None where it does not compile."""
    task = Task.of(source(unit), SCRATCH / ("objects" + suffix), [*emulated.KERNEL_FLAGS, "-w"])
    task.object.parent.mkdir(exist_ok=True)
    return task.object if subprocess.run(task.command, capture_output=True).returncode == 0 else None


@cache
def _unmutated(unit: str) -> bytes:
    compiled = _compile(unit, "_unmutated")
    if compiled is None:
        raise SystemExit(f"mutation: {unit} does not compile as it is")
    return compiled.read_bytes()


def build(mutant: Mutant, unit: str) -> Built:
    """Compiles `unit` with the mutation and links it with everything else unmutated."""
    unmutated = _unmutated(unit)
    path = source(mutant.file)
    text = path.read_text()
    path.write_text(mutant.apply(text))
    try:
        compiled = _compile(unit, "")
    finally:
        path.write_text(text)
    if compiled is None:
        return Built.BROKEN
    if compiled.read_bytes() == unmutated:
        return Built.UNCHANGED
    objects = [compiled if task.source.name == unit else task.object for task in emulated.tasks(REGULAR)]
    library().unlink(missing_ok=True)
    link(objects, library(), emulated.LINK_FLAGS, default_compiler())
    return Built.CHANGED
