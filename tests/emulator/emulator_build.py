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
from buildtools.compile import Task, compile_all, link  # noqa: E402

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
    link(compile_all(tasks), library, emulated.LINK_FLAGS)
    return load_rules(library)


def build_kernels(source: str) -> ctypes.CDLL:
    """A file of test kernels with the emulator."""
    require_toolchain()
    library = BUILD / f"lib{Path(source).stem}.so"
    return ctypes.CDLL(str(emulated.build_own([HERE / source], library, ROOT / "build", program=False)))


def load_rules(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    library.rules_run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    library.rules_names.restype = ctypes.c_char_p
    return library


def build_library() -> Path:
    require_toolchain()
    return emulated.build(ROOT / "fastconv" / "_emulated.so", ROOT / "build")


def build_client() -> Path:
    """A library that does not contain the kernels: it reaches them through the exported table, as fastconv does."""
    require_toolchain()
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    library = BUILD / "libclient.so"
    link(compile_all([Task.of(HERE / "backend_client.cpp", BUILD, flags)]), library, [])
    return library
