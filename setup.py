"""Builds fastconv: one extension module, fastconv/_C, and the shared library of the emulated CUDA kernels.

pyproject.toml holds the metadata; buildtools/ says which files are compiled and how. For development:

    python setup.py build_ext --inplace
"""

import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a PEP 517 build does not have this folder on its path

from buildtools import cuda as cuda_kernels  # noqa: E402
from buildtools import emulated, sources  # noqa: E402
from buildtools.build_info import compiler_version, git_sha, write_build_info  # noqa: E402
from buildtools.compile import compile_all, default_compiler, exclusive, link  # noqa: E402
from buildtools.cuda_choice import CudaChoice, choose_cuda  # noqa: E402
from buildtools.torch_install import TorchInstall, find_torch  # noqa: E402


class BuildExtension(build_ext):
    """Compiles file by file, each with its own flags, which setuptools' own compilation cannot."""

    def run(self) -> None:
        with exclusive(Path(self.build_temp).resolve()):
            self.build()

    def build(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "fastconv" if in_place else Path(self.build_lib).resolve() / "fastconv"
        package.mkdir(parents=True, exist_ok=True)
        build_dir = Path(self.build_temp).resolve()
        torch = find_torch()
        cuda = choose_cuda(torch)
        print(f"fastconv: CUDA kernels {'compiled' if cuda.enabled else 'left out'}: {cuda.reason}", flush=True)
        tasks = sources.cpu_tasks(build_dir) + sources.torch_tasks(build_dir, torch, cuda.enabled)
        flags = sources.link_flags(torch)
        if cuda.nvcc is not None:
            tasks += cuda_kernels.tasks(build_dir, cuda.nvcc)
            flags += ["-ltorch_cuda", *cuda_kernels.link_flags(cuda.nvcc)]
        module = package / Path(self.get_ext_filename("fastconv._C")).name
        link(compile_all(tasks), module, flags)
        left_out = {} if cuda.enabled else {"cuda": cuda.reason}
        if sources.is_x86():
            emulated.build(package / "_emulated.so", build_dir)
        else:
            left_out["cuda_emulated"] = "the emulator has been run on x86-64 only"
        write_build_info(package / "_build_info.py", self.describe(torch, cuda, left_out))

    def describe(self, torch: TorchInstall, cuda: CudaChoice, left_out: dict[str, str]) -> dict[str, Any]:
        return {
            "git_sha": git_sha(ROOT),
            "compiler": compiler_version(default_compiler()),
            "flags": " ".join(sources.COMMON_FLAGS),
            "isa_flags": {isa: " ".join(flags) for isa, flags in sources.ISA_FLAGS.items()} if sources.is_x86() else {},
            "torch": torch.version,
            "cuda": cuda.enabled,
            "cuda_architectures": list(cuda_kernels.wanted_architectures()) if cuda.enabled else [],
            "left_out": left_out,
        }


setup(
    ext_modules=[Extension("fastconv._C", sources=[])],
    cmdclass={"build_ext": BuildExtension},
)
