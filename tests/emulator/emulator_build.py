"""Builds what these tests load: the emulated library, a client of it, and the kernels that break rules."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RULES_FOLDER = HERE / "rules"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from buildtools import emulated  # noqa: E402
from buildtools.compile import Task, compile_all, exclusive, link  # noqa: E402

BUILD = ROOT / "build" / "emulator_tests"


def require_toolchain() -> None:
    if reason := emulated.obstacle():
        pytest.skip(reason)


def build_rules(name: str, flags: list[str]) -> ctypes.CDLL:
    """The rule kernels with their own copy of the emulator, compiled with extra `flags`."""
    require_toolchain()
    build_dir = BUILD / name
    sources = sorted(RULES_FOLDER.glob("*.cu"))
    tasks = emulated.emulator_tasks(build_dir)
    tasks += [Task.of(source, build_dir, emulated.KERNEL_FLAGS) for source in sources]
    for task in tasks:
        task.flags = flags + task.flags
    library = build_dir / "librules.so"
    with exclusive(BUILD):
        link(compile_all(tasks), library, emulated.LINK_FLAGS)
    return load_rules(library)


def build_kernels(source: str) -> ctypes.CDLL:
    """A file of test kernels with the emulator."""
    require_toolchain()
    library = BUILD / f"lib{Path(source).stem}.so"
    with exclusive(BUILD):
        emulated.build_own([HERE / source], library, ROOT / "build", program=False)
    return ctypes.CDLL(str(library))


def load_rules(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    library.rules_run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    library.rules_names.restype = ctypes.c_char_p
    return library


def build_library() -> Path:
    """The package's own library, where it is newer than all it is made from: a build takes minutes."""
    require_toolchain()
    library = ROOT / "fastconv" / "_emulated.so"
    sources = [path for folder in ("common", "cuda", "emulator") for path in (ROOT / "csrc" / folder).rglob("*.*")]
    newest = max(path.stat().st_mtime for path in sources)
    with exclusive(BUILD):
        if library.exists() and library.stat().st_mtime >= newest:
            return library
        return emulated.build(library, ROOT / "build")


def build_client() -> Path:
    """A library that does not contain the kernels: it reaches them through the exported table, as fastconv does."""
    require_toolchain()
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    library = BUILD / "libclient.so"
    with exclusive(BUILD):
        link(compile_all([Task.of(HERE / "backend_client.cpp", BUILD, flags)]), library, [])
    return library
