"""Settings of the emulator (docs/emulator.md) for a while, and what it has counted.

It reads its settings from the environment at every call and launch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fastconv import _C

_VARIABLES = {
    "arch": "FASTCONV_EMULATED_ARCH",
    "multiprocessors": "FASTCONV_EMULATED_MULTIPROCESSORS",
    "schedule": "FASTCONV_EMULATOR_SCHEDULE",
    "copies": "FASTCONV_EMULATOR_COPIES",
    "limit": "FASTCONV_EMULATOR_LIMIT",
}
# What the report of a launch says that has made as many accesses as `limit` allows.
LIMIT_REACHED = f"more than {_VARIABLES['limit']} accesses"


@contextmanager
def emulator_settings(**settings: str | int) -> Iterator[None]:
    """Sets arch, multiprocessors, schedule, copies or limit, as before afterwards; 0 and "" set nothing."""
    wanted = {_VARIABLES[name]: str(value) for name, value in settings.items() if value}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _library() -> ctypes.CDLL:
    # The extension opens the same file, so this is the library that runs the kernels.
    library = ctypes.CDLL(str(Path(_C.__file__).with_name("_emulated.so")))
    library.fastconv_emulator_ring_rounds.restype = ctypes.c_int64
    library.fastconv_emulator_kernels.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.fastconv_emulator_kernels.restype = ctypes.c_size_t
    return library


def ring_rounds() -> int:
    """How often, at most, a block has gone round its ring of stages in the launches since clear_counters()."""
    return int(_library().fastconv_emulator_ring_rounds())


def kernels() -> dict[str, bool]:
    """The compiled instances of Hopper's kernels, and whether each has run to its end since clear_counters()."""
    read = _library().fastconv_emulator_kernels
    buffer = ctypes.create_string_buffer(read(None, 0))
    read(buffer, len(buffer))
    lines = (line.split(" ", 1) for line in buffer.value.decode().splitlines())
    return {_short_name(text): has_run == "1" for has_run, text in lines}


def _short_name(text: str) -> str:
    """conv_wgmma_kernel<WgmmaConfig<half_t, 64, 8>, ...> from the compiler's text of what has it as an argument."""
    name = text[text.index("kKernel = ") + len("kKernel = ") : text.rindex("]")].split("; ")[0]
    return name.replace("fastconv::", "").replace("cuda::", "")


def clear_counters() -> None:
    """Everything that the emulator counts begins at zero again."""
    _library().fastconv_emulator_clear_counters()
