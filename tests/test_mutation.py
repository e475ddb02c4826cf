"""The mutation tool's edits; that mutants are caught is for the tool itself to show (make mutants)."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from buildtools.mutation import edits  # noqa: E402
from buildtools.mutation.targets import served  # noqa: E402

KERNEL = """\
// if (a < b) __syncthreads();
template <class T>
__global__ void kernel(const Params params) {
  __shared__ float tile[2][kRows];
  for (int i = 0; i < params.H; ++i) {
    tile[stage][i] = i < left ? next[i * params.stride_h] : 0.0f;
    cp_async_16(&tile[stage][0], next + offset(i, 1), i < left && valid);
    cp_async_commit();
    cp_async_wait<kStages - 2>();
    __syncthreads();
    const int n = min(i, params.H - 1);
    if (n >= 0) mbarrier_wait(&full[stage], phase);
    fence_proxy_async();
    stage ^= 1;
  }
}

void launch(int n) {
  if (n < 3) tile[n] = min(n, 2);
}
"""


def edited_lines(operator: str) -> list[str]:
    found = []
    for mutant in edits.mutants("kernels/kernel.cuh", KERNEL):
        if mutant.operator == operator:
            assert KERNEL.splitlines()[mutant.line - 1].strip() == mutant.source_line
            found.append(mutant.apply(KERNEL).splitlines()[mutant.line - 1].strip())
    return found


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("drop_barrier", ";"),
        ("wait_for_less", "cp_async_wait<(kStages - 2) + 1>();"),
        ("drop_wait", "if (n >= 0) ;"),
        ("drop_fence", ";"),
        ("drop_commit", ";"),
        ("flip_phase", "stage ^= 0;"),
        ("shift_index", "tile[stage + 1][i] = i < left ? next[i * params.stride_h] : 0.0f;"),
        ("change_comparison", "for (int i = 0; i <= params.H; ++i) {"),
        ("drop_left_predicate", "cp_async_16(&tile[stage][0], next + offset(i, 1), valid);"),
        ("drop_condition", "if (true) mbarrier_wait(&full[stage], phase);"),
        ("drop_bound", "const int n = (i);"),
        ("drop_zero_fill", "tile[stage][i] = i < left ? next[i * params.stride_h] : next[i * params.stride_h];"),
        ("always_copy", "cp_async_16(&tile[stage][0], next + offset(i, 1), true);"),
        ("swap_axis", "tile[stage][i] = i < left ? next[i * params.stride_w] : 0.0f;"),
        ("plus_one_less", "const int n = min(i, params.H - 0);"),
        ("swap_sign", "cp_async_16(&tile[stage][0], next - offset(i, 1), i < left && valid);"),
    ],
)
def test_edit(operator, expected):
    assert expected in edited_lines(operator)


def test_host_code_comments_and_declarations_stay():
    lines = {mutant.line for mutant in edits.mutants("kernels/kernel.cuh", KERNEL)}
    texts = KERNEL.splitlines()
    for untouched in ("// if (a", "__shared__ float", "if (n < 3)"):
        assert next(n for n, text in enumerate(texts, 1) if text.strip().startswith(untouched)) not in lines


def test_keys_are_unique():
    keys = [mutant.key for mutant in edits.mutants("kernels/kernel.cuh", KERNEL)]
    assert len(keys) == len(set(keys))


def test_every_compilation_unit_is_known():
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        served(path.name, path.read_text())


def test_rows_are_found():
    text = (
        'const Algorithm<GemmCall> kGemmSimt = {"simt", "tiled",\n  reasons};\nconst Algorithm<GemmCall> kB = {\n "b",'
    )
    assert served("gemm_simt.cu", text) == [("gemm", "simt"), ("gemm", "b")]
    with pytest.raises(SystemExit, match=r"new\.cu defines no algorithm"):
        served("new.cu", "")
