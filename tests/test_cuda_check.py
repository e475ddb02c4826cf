"""make cuda-check: what it reads from the compilers' output, and what it complains of."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from buildtools import cuda, cuda_check

PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z15gemm_mma_kernelv' for 'sm_80'
ptxas info    : Function properties for _Z15gemm_mma_kernelv
    16 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 384 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4copyv' for 'sm_90a'
ptxas info    : Function properties for _Z4copyv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
"""
SASS = """Fatbin elf code:
	code for sm_80
		Function : _Z15gemm_mma_kernelv
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   HMMA.16816.F32 R4, R8, R16, R4 ;
        /*0020*/              @!P0 LDGSTS.E.BYPASS.128 [R2], [R4.64] ;
        /*0030*/              @UP1 LDSM.16.M88.4 R8, [R2] ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R16, R4 ;
"""


def usages() -> list[cuda_check.KernelUsage]:
    found = cuda_check.parse_usage(PTXAS)
    counts = cuda_check.parse_instructions(SASS)
    for usage in found:
        usage.instructions = dict(counts.get((usage.name, usage.architecture), {}))
        if usage.name.startswith("_Z15"):
            usage.name = "gemm_mma_kernel<MmaConfig<half_t, 64>, ChunkLoader>"
    return found


def test_reads_ptxas_and_cuobjdump() -> None:
    gemm, copy = usages()
    assert (gemm.architecture, gemm.registers, gemm.spill_bytes, gemm.shared_bytes) == ("sm_80", 255, 56, 384)
    assert gemm.instructions == {"HMMA": 2, "LDGSTS": 1, "LDSM": 1}
    assert (copy.registers, copy.spill_bytes, copy.shared_bytes, copy.instructions) == (18, 0, 0, {})


def test_complains_of_spills_and_of_missing_instructions() -> None:
    gemm, copy = usages()
    assert cuda_check.complaints([gemm, copy], True) == [f"sm_80 {gemm.name}: 56 bytes spilled"]
    gemm.spill_bytes, gemm.instructions["LDSM"] = 0, 0
    assert cuda_check.complaints([gemm], True) == [f"sm_80 {gemm.name}: no LDSM"]
    assert cuda_check.complaints([gemm], False) == []
    gemm.name = "gemm_mma_kernel<MmaConfig<half_t, 64>, ElementLoader>"
    assert cuda_check.complaints([gemm], True) == []


def test_complains_of_what_was_not_compiled_as_written() -> None:
    _, copy = usages()
    for text in (
        "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register "
        "resources for the wgmma pipeline in the function '_Z12wgmma_kernelv'",
        "(C7517) warpgroup.wait is injected in around line 76 by compiler to allow use of registers defined by GMMA",
        "(C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.",
    ):
        assert cuda_check.complaints([copy], True, f"{PTXAS}ptxas info    : {text}\n") == [f"ptxas info    : {text}"]
    assert cuda_check.complaints([copy], True, PTXAS) == []


def test_expects_warpgroups_to_pass_registers_on() -> None:
    kernel = cuda_check.KernelUsage("gemm_wgmma_kernel<WgmmaConfig<float, 64>, General>", "sm_90a", 168, 0, 0)
    kernel.instructions = {"HGMMA": 8, "UTMALDG": 2, "USETMAXREG": 2}
    assert cuda_check.complaints([kernel], True) == []
    del kernel.instructions["USETMAXREG"]
    assert cuda_check.complaints([kernel], True) == [f"sm_90a {kernel.name}: no USETMAXREG"]


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt")
def test_names_are_short() -> None:
    mangled = ["_ZN8fastconv4cuda6kernelINS_6half_tELi4ELb1EEEvNS0_6ParamsIT_EE", "_Z4copyPfi"]
    assert cuda_check.readable(mangled) == ["kernel<half_t, 4, true>", "copy"]


@pytest.mark.parametrize(
    ("listed", "flags"),
    [
        ("8.0;9.0a", ["compute_80,code=sm_80", "compute_90a,code=sm_90a"]),
        ("8.6+PTX", ["compute_86,code=sm_86", "compute_86,code=compute_86"]),
        ("Hopper", [f"compute_{n},code={c}_{n}" for n, c in (("75", "compute"), ("80", "sm"), ("80", "compute"))]
         + ["compute_90a,code=sm_90a"]),
    ],
)  # fmt: skip
def test_architectures_follow_torchs_list(listed: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert cuda.gencode_flags(cuda.wanted_architectures()) == [f"-gencode=arch={flag}" for flag in flags]
