"""The machine's constants behind predicted costs: measured once, kept on disk, in force for the whole process.

`FASTCONV_CALIBRATION` names the file to use instead of the default one; "off" leaves the built-in constants in force.
Importing the package reads a file that is there; `convert`, `explain` and `bench` measure where there is none, which
takes a fraction of a second. Nothing measures on account of a new shape.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from fastconv import _C

_lock = threading.Lock()
# Instruction sets whose constants were looked for in this process, and what became of it, in words.
_states: dict[str, str] = {}
DEFAULTS = "built-in constants"


def setting() -> str:
    """FASTCONV_CALIBRATION."""
    return os.environ.get("FASTCONV_CALIBRATION", "")


def _key() -> dict[str, str]:
    """What the constants hold for."""
    import fastconv
    from fastconv import machine

    return {"cpu": machine.cpu_name(), "isa": _C.isa(), "version": fastconv.__version__}


def path() -> Path | None:
    """The file of this machine, instruction set and version; None where calibration is off or there is no home."""
    if setting() == "off":
        return None
    if setting():
        return Path(setting())
    folder = cache_folder()
    if folder is None:
        return None
    name = hashlib.sha256(json.dumps(_key(), sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"calibration-{name}.json"


def cache_folder() -> Path | None:
    """Where the package keeps what it measured; None where there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "fastconv"
    except RuntimeError:
        return None


def load() -> bool:
    """Puts the constants of the file in force; False where there is none for this machine that can be read."""
    file = path()
    constants = None if file is None else _read(file)
    if constants is None:
        return False
    _apply(constants, f"measured earlier: {file}")
    return True


def ensure() -> None:
    """Reads the file or, once in a process, measures and writes it."""
    with _lock:
        if _C.isa() in _states or setting() == "off" or load():
            return
        calibrate()


def calibrate() -> dict[str, float]:
    """Measures now, puts the constants in force and writes the file if it can be written."""
    constants = _C.measure_cost_constants()
    file = path()
    where = "kept in this process only: calibration is off" if file is None else _write(file, constants)
    _apply(constants, f"measured now, {where}")
    return constants


def state() -> str:
    """Where the constants in force come from."""
    return _states.get(_C.isa(), DEFAULTS)


def describe() -> dict[str, Any]:
    """The constants in force and where they come from."""
    return {"source": state(), **_C.cost_constants()}


def _apply(constants: dict[str, float], source: str) -> None:
    if constants != _C.cost_constants():
        from fastconv.functional import cache

        _C.set_cost_constants(constants)
        cache.clear()  # another algorithm may serve a weight from now on, with a format of its own
    _states[_C.isa()] = source


def _read(file: Path) -> dict[str, float] | None:
    """The constants of a file that is whole, of this machine and names all of them; else None."""
    try:
        found = json.loads(file.read_text())
        constants = {str(name): float(value) for name, value in found["constants"].items()}
        mine = found["machine"] == _key()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    sound = all(math.isfinite(value) and value > 0 for value in constants.values())
    return constants if mine and sound and set(constants) == set(_C.cost_constants()) else None


def _write(file: Path, constants: dict[str, float]) -> str:
    try:
        write_whole(file, json.dumps({"machine": _key(), "constants": constants}, indent=1))
    except OSError as error:
        return f"kept in this process only: {error}"
    return f"written to {file}"


def write_whole(file: Path, text: str) -> None:
    """Under another name first, then renamed, so that no process ever reads half a file."""
    name = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
        with os.fdopen(handle, "w") as out:
            out.write(text)
        os.replace(name, file)
    except OSError:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise
