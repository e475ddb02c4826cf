"""Finds the torch to build against, without importing it: its version, its CUDA version, its headers and libraries.

pip builds in an isolated environment that hides the installed torch, which is the one the extension will run with. The
interpreter itself, started with -I, still sees it; where it does not, the build ends with one sentence, not with
"No module named torch".
"""

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = (2, 11)

MISSING = (
    "fastconv: torch is not visible to this build. Install torch >= 2.11 first, then build with the environment's own "
    "packages: pip install --no-build-isolation ."
)


@dataclass(frozen=True)
class TorchInstall:
    root: Path
    version: str
    cuda: str | None  # e.g. "13.0"; None for a build of torch without CUDA

    @property
    def include_dirs(self) -> list[Path]:
        return [self.root / "include"]

    @property
    def library_dir(self) -> Path:
        return self.root / "lib"


def _root() -> Path | None:
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    question = "import importlib.util as u; print(u.find_spec('torch').origin)"
    answer = subprocess.run([sys.executable, "-I", "-c", question], capture_output=True, text=True)
    return Path(answer.stdout.strip()).parent if answer.returncode == 0 else None


def find_torch() -> TorchInstall:
    """The installed torch. Raises SystemExit with what to do when there is none, or an older one than 2.11."""
    root = _root()
    if root is None or not (root / "version.py").is_file():
        raise SystemExit(MISSING)
    text = (root / "version.py").read_text()
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda[^=]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    if version is None:
        raise SystemExit(MISSING)
    major, minor = (int(part) for part in version[1].split(".")[:2])
    if (major, minor) < OLDEST:
        raise SystemExit(f"fastconv: expected torch >= 2.11, but got torch {version[1]} (its stable ABI is too old)")
    return TorchInstall(root, version[1], cuda[1] if cuda else None)
