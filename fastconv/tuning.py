"""Tables of measured times, which `fastconv.autotune` writes, and the choice of algorithms by them.

A table decides only where the user says so: `fastconv.use_tuning(path)`, or FASTCONV_AUTOTUNE=path for a process. It
holds one entry for each problem, and says which device and version it was measured with; entries of others are ignored.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from fastconv import _C, calibration

# What Winograd's two tile sizes are called together: no algorithm of its own.
ALIASES = ("winograd",)
_TRANSPOSES = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}


@dataclass(frozen=True)
class Entry:
    """The times of one problem's algorithms, in microseconds, the fastest first.

    `problem` is in the notation of `fastconv bench`; `layout` is nchw or nhwc, of a matrix product nn, nt, tn or tt (t:
    an operand is stored transposed). Bias, residual and activation are not part of it.
    """

    op: str
    problem: str
    dtype: str
    layout: str
    backend: str
    device: str
    version: str
    threads: int
    times_us: dict[str, float]

    def fields(self) -> dict[str, Any]:
        """The problem in the terms of `fastconv.explain`."""
        from fastconv.bench.problem import parse_problem

        fields: dict[str, Any] = {**parse_problem(self.op, self.problem).kernel_fields(), "dtype": self.dtype}
        if self.op == "gemm":
            a, b = _TRANSPOSES[self.layout]
            return {**fields, "transpose_a": a, "transpose_b": b}
        last = {"nchw": False, "nhwc": True}[self.layout]
        return {**fields, "channels_last": last, "weight_channels_last": last}

    def key(self) -> tuple[int, ...]:
        """The problem as the kernels' tables know it."""
        return tuple(_C.key_of_problem(self.op, self.backend, self.fields()))

    def identity(self) -> tuple[str, ...]:
        """What distinguishes the entries of a table, and orders them."""
        return (self.backend, self.device, self.version, self.op, self.dtype, self.layout, self.problem)


def device_name(backend: str) -> str:
    """What times hold for: the GPU's name, or the processor's and the instruction set in use."""
    if backend == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    from fastconv import machine

    return f"{machine.cpu_name()}, {_C.isa()}"


def default_path() -> Path:
    """tuning.json under ~/.cache/fastconv (or XDG_CACHE_HOME)."""
    folder = calibration.cache_folder()
    if folder is None:
        raise ValueError("fastconv.tuning: there is no home directory; name a file")
    return folder / "tuning.json"


def read(path: str | Path) -> list[Entry]:
    """The entries of a table.

    Raises:
        ValueError: the file cannot be read, or is not such a table.
    """
    try:
        found = json.loads(Path(path).read_text())
        entries = [Entry(**row) for row in found["entries"]]
        for entry in entries:
            times = entry.times_us.values()
            if not all(isinstance(time, int | float) and math.isfinite(time) and time > 0 for time in times):
                raise ValueError(f"expected times_us to be positive numbers, but got {entry.times_us}")
            entry.key()
    except OSError as error:
        raise ValueError(f"fastconv.tuning: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"fastconv.tuning: {path} is not a table of fastconv.autotune: {error}") from None
    return entries


def write(path: str | Path, entries: Iterable[Entry]) -> None:
    """Adds entries to a table, in place of those of the same problem, device and version; one line each, sorted.

    Raises:
        ValueError: what is there is no table, or it cannot be written.
    """
    file = Path(path)
    kept = {entry.identity(): entry for entry in (read(file) if file.exists() else [])}
    kept.update((entry.identity(), entry) for entry in entries)
    lines = ",\n".join(f"  {json.dumps(asdict(kept[identity]))}" for identity in sorted(kept))
    try:
        calibration.write_whole(file, f'{{"entries": [\n{lines}\n]}}\n')
    except OSError as error:
        raise ValueError(f"fastconv.tuning: cannot write {file}: {error.strerror or error}") from None


_table: dict[tuple[int, ...], Entry] = {}  # in force
_asked: tuple[Entry, ...] = ()  # all that the user's table has
_warned: set[str] = set()


class use_tuning:
    """Lets a table of measured times choose algorithms: ``fastconv.use_tuning(path)``.

    For the whole process until the next call (``None`` ends it), or for a block: ``with fastconv.use_tuning(path):
    ...``. A problem that the table holds gets the fastest algorithm that serves it and may be taken unasked (no tf32
    where torch does not allow it, no Winograd under ``allow_winograd(False)``); every other problem is predicted as
    ever. Entries of another device, instruction set or version are ignored, with one warning; a table with entries of
    a GPU asks torch for the GPU's name, which starts CUDA. At the start FASTCONV_AUTOTUNE names the table, if there is
    one.

    A measurement holds for one batch size: with a table an image of a batch may be computed by another algorithm, and
    be rounded otherwise, than alone.

    Args:
        path: what `fastconv.autotune` wrote; None for no table.

    Raises:
        ValueError: the file is no table.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._before = _asked
        _apply(() if path is None else tuple(read(path)), str(path))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _apply(self._before, "the table before")


def _apply(entries: tuple[Entry, ...], source: str) -> None:
    import fastconv
    from fastconv.functional import cache

    global _asked
    names = {backend: device_name(backend) for backend in {entry.backend for entry in entries}}
    mine = [e for e in entries if e.version == fastconv.__version__ and e.device == names[e.backend]]
    if len(mine) < len(entries) and source not in _warned:
        _warned.add(source)
        here = " and ".join(sorted(names.values()))
        warnings.warn(
            f"fastconv: {len(entries) - len(mine)} of {len(entries)} entries of {source} are ignored: they were "
            f"measured on another device or version than {here}, {fastconv.__version__}",
            stacklevel=3,
        )
    _asked = entries
    _table.clear()
    _table.update((entry.key(), entry) for entry in mine)
    _C.set_measured_orders({key: sorted(e.times_us, key=e.times_us.__getitem__) for key, e in _table.items()})
    cache.clear()  # another algorithm may serve a weight from now on, with a format of its own


def reload() -> None:
    """Takes the entries of the instruction set in use now."""
    if _asked:
        _apply(_asked, "the table in use")


def in_use() -> bool:
    """Whether a table has anything to say on this device."""
    return bool(_table)


def times_of(op: str, backend: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """Measured seconds by algorithm for a problem in `explain`'s terms; empty where the table has none."""
    entry = _table.get(tuple(_C.key_of_problem(op, backend, dict(fields)))) if _table else None
    return {} if entry is None else {name: time * 1e-6 for name, time in entry.times_us.items()}


def load_from_environment() -> None:
    """Puts the table of FASTCONV_AUTOTUNE in force."""
    if path := os.environ.get("FASTCONV_AUTOTUNE", ""):
        use_tuning(path)
