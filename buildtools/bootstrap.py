"""Sets up the development environment: a virtual environment with torch, the tools, and the demo's packages.

    python buildtools/bootstrap.py .venv

An interpreter that has torch >= 2.11 lends it (and its other packages) to the environment; otherwise torch is
installed from the package index. Runs with the standard library alone.
"""

import subprocess
import sys
import venv
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TORCH_TO_INSTALL = "torch==2.13.0"  # the newest release this package is tested with
OLDEST_TORCH = (2, 11)
# The requirements of one pin an old torch, where only the weights inside the package are needed; the other's want
# torchvision, which the networks that are used do not.
WITHOUT_DEPENDENCIES = ["facenet-pytorch==2.6.0", "pytorchcv>=0.0.74"]


def torch_version(python: str) -> "tuple[int, int] | None":
    probe = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    if probe.returncode != 0:
        return None
    major, minor = probe.stdout.strip().split(".")[:2]
    return int(major), int(minor)


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    found = torch_version(sys.executable)
    lend = found is not None and found >= OLDEST_TORCH
    venv.EnvBuilder(system_site_packages=lend, with_pip=True, clear=False, symlinks=True).create(target)
    python = target / "bin" / "python"
    inherited = torch_version(str(python))
    if inherited is None or inherited < OLDEST_TORCH:
        print(f"bootstrap: installing {TORCH_TO_INSTALL} into {target}")
        pip(python, TORCH_TO_INSTALL)
    else:
        print(f"bootstrap: using the torch {inherited[0]}.{inherited[1]} that is there")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = list(project["build-system"]["requires"])
    requirements += project["project"]["dependencies"]
    for extra in ("demo", "bench", "zoo", "triton", "test", "dev"):
        requirements += project["project"]["optional-dependencies"][extra]
    pip(python, *[r for r in dict.fromkeys(requirements) if not r.startswith(("torch", "fastconv", "facenet"))])
    pip(python, "--no-deps", *WITHOUT_DEPENDENCIES)


if __name__ == "__main__":
    main()
