"""Where a tile of Hopper's kernels leaves element by element: outputs whose rows lie together, not their columns (NCHW,
column-major), counted. Shared memory in the fewest wavefronts, global memory in the fewest sectors.
"""

import ctypes

import numpy as np
import pytest
from emulated_values import values
from emulator_build import build_library
from emulator_client import Epilogue, narrow, widen
from test_emulated_kernels import kernels  # noqa: F401
from test_emulator_counters import read_table

WRITER = "wgmma_output.cuh"
GEMM = {"float16": "wgmma", "bfloat16": "wgmma", "float32": "wgmma_tf32"}


@pytest.fixture
def library(monkeypatch):
    """With one multiprocessor: only a launch's first block is counted."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "1")
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = ctypes.CDLL(str(build_library()))
    library.fastconv_emulator_clear_counters()
    yield library
    library.fastconv_emulator_clear_counters()


def whole_sectors(shape, dtype):
    """Zeros from a sector's first byte on."""
    buffer = narrow(np.zeros(int(np.prod(shape)) + 16), dtype)
    return buffer[-buffer.ctypes.data % 32 // buffer.itemsize :][: int(np.prod(shape))].reshape(shape)


def counted(library):
    """Units and minimum of what the writer of elements does, for each kind of access."""
    sums = {}
    for row in read_table(library):
        if WRITER in row.line:
            units, minimum = sums.get(row.access, (0, 0))
            sums[row.access] = (units + row.units, minimum + row.minimum)
    return sums


def require_fewest(library, sectors):
    sums = counted(library)
    assert sums["global write"] == (sectors, sectors)
    assert set(sums) >= {"shared read", "shared write"}
    for access, (units, minimum) in sums.items():
        assert units == minimum, access


@pytest.mark.parametrize("act", ["identity", "prelu"])
@pytest.mark.parametrize("filters", [64, 128, 256])
def test_nchw(kernels, library, filters, act):  # noqa: F811
    rng = np.random.default_rng(filters)
    x, x64 = values(rng, (2, 64, 8, 16), "float16", integers=True)
    w, w64 = values(rng, (filters, 64, 1, 1), "float16", integers=True)
    y = whole_sectors((2, filters, 8, 16), "float16")
    geometry = (1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1)
    kernels.conv2d(x, w, y, "float16", geometry, Epilogue(act=act, param=0.5), "wgmma")
    sums = np.einsum("nchw,kc->nkhw", x64, w64[:, :, 0, 0])
    expected = np.where(sums > 0, sums, sums / 2) if act == "prelu" else sums
    np.testing.assert_array_equal(widen(y, "float16"), widen(narrow(expected, "float16"), "float16"))
    require_fewest(library, y.nbytes // 32)


@pytest.mark.parametrize("dtype", GEMM)
@pytest.mark.parametrize("shape", [(1, 128, 64), (2, 256, 320)], ids=str)
def test_column_major(kernels, library, shape, dtype):  # noqa: F811
    B, M, N = shape
    rng = np.random.default_rng(N)
    a, a64 = values(rng, (B, M, 64), dtype, integers=True)
    b, b64 = values(rng, (B, N, 64), dtype, integers=True)
    d = whole_sectors((B, N, M), dtype).swapaxes(1, 2)
    kernels.gemm(a, b.swapaxes(1, 2), d, dtype, algo=GEMM[dtype])
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(a64 @ b64.swapaxes(1, 2), dtype), dtype))
    require_fewest(library, d.nbytes // 32)
