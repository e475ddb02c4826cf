"""The build: which torch and which CUDA it picks, what it recompiles, and what the extension links to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import _C

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from buildtools import compile as compiling  # noqa: E402
from buildtools import cuda_choice, sources, torch_install  # noqa: E402
from buildtools.cuda_choice import choose_cuda  # noqa: E402
from buildtools.torch_install import TorchInstall  # noqa: E402

CPU_TORCH = TorchInstall(Path("torch"), "2.13.0+cpu", None)
CUDA_TORCH = TorchInstall(Path("torch"), "2.13.0+cu130", "13.0")


def test_finds_the_torch_in_use() -> None:
    import torch

    found = torch_install.find_torch()
    assert found.version == torch.__version__ and found.cuda == torch.version.cuda
    assert (found.include_dirs[0] / "torch/csrc/stable/library.h").is_file()
    assert list(found.library_dir.glob("libtorch_cpu.*"))


def test_missing_torch_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_install, "_root", lambda: None)
    with pytest.raises(SystemExit, match="pip install --no-build-isolation"):
        torch_install.find_torch()


def test_old_torch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("__version__ = '2.10.1+cpu'\ncuda: Optional[str] = None\n")
    monkeypatch.setattr(torch_install, "_root", lambda: tmp_path)
    with pytest.raises(SystemExit, match=r"expected torch >= 2\.11, but got torch 2\.10\.1"):
        torch_install.find_torch()


@pytest.mark.parametrize(
    ("wanted", "torch", "nvcc", "enabled", "reason"),
    [
        ("auto", CPU_TORCH, ("nvcc", "13.0"), False, "built without CUDA"),
        ("auto", CUDA_TORCH, None, False, "nvcc was not found"),
        ("auto", CUDA_TORCH, ("nvcc", "12.8"), False, r"nvcc is release 12\.8, but .* CUDA 13\.0"),
        ("auto", CUDA_TORCH, ("nvcc", "13.1"), True, r"nvcc 13\.1"),
        ("1", CUDA_TORCH, ("nvcc", "13.0"), True, r"nvcc 13\.0"),
        ("0", CUDA_TORCH, ("nvcc", "13.0"), False, "FASTCONV_CUDA=0"),
    ],
)
def test_cuda_choice(
    wanted: str,
    torch: TorchInstall,
    nvcc: tuple[str, str] | None,
    enabled: bool,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTCONV_CUDA", wanted)
    monkeypatch.setattr(cuda_choice, "find_nvcc", lambda: nvcc)
    choice = choose_cuda(torch)
    assert choice.enabled == enabled and re.search(reason, choice.reason)


@pytest.mark.parametrize(("wanted", "text"), [("1", "FASTCONV_CUDA=1, but nvcc was not found"), ("yes", "auto, 0, 1")])
def test_cuda_choice_that_cannot_be_met(wanted: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_CUDA", wanted)
    monkeypatch.setattr(cuda_choice, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match=text):
        choose_cuda(CUDA_TORCH)


def test_flags_follow_the_file_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = {task.source.stem: task for task in sources.cpu_tasks(tmp_path)}
    assert "target_scalar" in tasks and not any(f.startswith("-mavx") for f in tasks["target_scalar"].flags)
    assert not any(f.startswith("-mavx") for f in tasks["dispatch"].flags)
    if sources.is_x86():
        assert "-mavx512f" in tasks["target_avx512"].flags and "-mavx512f" not in tasks["target_avx2"].flags
        monkeypatch.setattr(sources, "compiler_takes", lambda flags: False)
        old = {task.source.stem: task.flags for task in sources.cpu_tasks(tmp_path)}
        for name in ("target_amx", "target_avx512_bf16"):  # compiled without the flags it is an empty table
            assert not any(flag.startswith(("-mamx", "-mavx")) for flag in old[name])
    monkeypatch.setattr(sources, "is_x86", lambda: False)
    stems = {task.source.stem for task in sources.cpu_tasks(tmp_path)}
    assert {stem for stem in stems if stem.startswith("target_")} == {"target_scalar"}


def test_recompiles_what_changed_and_nothing_else(tmp_path: Path) -> None:
    header, source = tmp_path / "answer.h", tmp_path / "answer.cpp"
    header.write_text("#define ANSWER 42\n")
    source.write_text('#include "answer.h"\nint answer() { return ANSWER; }\n')
    task = compiling.Task.of(source, tmp_path / "build", ["-fPIC"])

    def made() -> int:
        compiling.compile_all([task])
        return task.object.stat().st_mtime_ns

    first = made()
    assert made() == first
    header.write_text("#define ANSWER 43\n")
    second = made()
    assert second > first
    task.flags = ["-fPIC", "-O1"]
    assert made() > second


def test_compiler_errors_end_the_build(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int wrong() { return nothing; }\n")
    with pytest.raises(SystemExit, match="failed"):
        compiling.compile_all([compiling.Task.of(source, tmp_path / "build", [])])
    assert "nothing" in capfd.readouterr().err


def test_uses_only_the_stable_abi() -> None:
    """Undefined symbols of torch are the C functions of its stable ABI: none is mangled, so none is C++."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", _C.__file__], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("nm cannot read the extension here")
    names = [line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()]
    unstable = [name for name in names if re.match(r"_ZNK?(?:3c10|2at|5torch|6caffe2)", name)]
    assert not unstable
    stable = [name for name in names if name.startswith(("aoti_torch_", "torch_"))]
    assert "aoti_torch_empty_strided" in stable


def test_build_info_says_what_was_left_out() -> None:
    info = fastconv.build_info()
    assert info["compiler"] and info["flags"] and isinstance(info["cuda"], bool)
    assert info["cuda"] or info["left_out"]["cuda"]
    assert info["isa"] in info["available_isas"]


def test_import_without_the_extension_says_how_to_build(tmp_path: Path) -> None:
    package = tmp_path / "fastconv"
    package.mkdir()
    (package / "__init__.py").write_text((ROOT / "fastconv" / "__init__.py").read_text())
    answer = subprocess.run([sys.executable, "-c", "import fastconv"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode != 0 and "python setup.py build_ext --inplace" in answer.stderr.splitlines()[-1]
