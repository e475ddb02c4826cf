"""Whether to compile the CUDA kernels: FASTCONV_CUDA=auto|0|1. Never asks whether a GPU is present."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from .torch_install import TorchInstall


@dataclass(frozen=True)
class CudaChoice:
    enabled: bool
    reason: str  # completes the sentence "CUDA kernels compiled/left out: ..."
    nvcc: str | None = None


def find_nvcc() -> tuple[str, str] | None:
    """nvcc's path and release, e.g. ("/usr/local/cuda/bin/nvcc", "13.0")."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    path = shutil.which("nvcc", path=f"{home}/bin") if home else None
    path = path or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None:
        return None
    answer = subprocess.run([path, "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+\.\d+)", answer.stdout)
    return (path, release[1]) if release else None


def choose_cuda(torch: TorchInstall) -> CudaChoice:
    """The choice and its reason. Raises SystemExit when FASTCONV_CUDA=1 cannot be met, or has another value."""
    wanted = os.environ.get("FASTCONV_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"fastconv: expected FASTCONV_CUDA to be one of auto, 0, 1, but got {wanted!r}")
    if wanted == "0":
        return CudaChoice(False, "FASTCONV_CUDA=0")
    nvcc = find_nvcc()
    if torch.cuda is None:
        obstacle = f"torch {torch.version} is built without CUDA"
    elif nvcc is None:
        obstacle = "nvcc was not found (set CUDA_HOME)"
    elif nvcc[1].split(".")[0] != torch.cuda.split(".")[0]:
        obstacle = f"nvcc is release {nvcc[1]}, but torch {torch.version} is built with CUDA {torch.cuda}"
    else:
        return CudaChoice(True, f"nvcc {nvcc[1]} for torch {torch.version} with CUDA {torch.cuda}", nvcc[0])
    if wanted == "1":
        raise SystemExit(f"fastconv: FASTCONV_CUDA=1, but {obstacle}")
    return CudaChoice(False, obstacle)
