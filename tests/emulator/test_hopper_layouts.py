"""wgmma's operands, accumulators and descriptors, and im2col's coordinates, against CuTe, NVIDIA's definition of them.

Needs the headers of the nvidia-cutlass package (pip install nvidia-cutlass) and of a CUDA toolkit; skipped without.
"""

import ctypes
import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulator_build import BUILD, HERE
from test_emulator_products import stored_places
from test_hopper_im2col import CONVOLUTIONS
from test_hopper_products import MAJORS, K, accumulator_places, call, hopper, multiply, operand_offsets, operands  # noqa: F401
from test_hopper_tf32 import K as TF32_K
from test_hopper_tf32 import operand_offsets as tf32_offsets

from buildtools.compile import Task, compile_all, link


def include_folders() -> list[Path]:
    package = importlib.util.find_spec("cutlass_library")
    if package is None or package.origin is None:
        pytest.skip("the nvidia-cutlass package is not installed")
    cutlass = Path(package.origin).parent / "source" / "include"
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if not (cuda / "cuda_runtime.h").exists():
        pytest.skip(f"no CUDA headers in {cuda} (set CUDA_HOME)")
    return [cutlass, cuda, cuda / "cccl"]


def build(source: str) -> ctypes.CDLL:
    flags = ["-std=c++17", "-O1", "-fPIC", "-w", *(f"-I{folder}" for folder in include_folders())]
    library = BUILD / f"lib{Path(source).stem}.so"
    try:
        link(compile_all([Task.of(HERE / source, BUILD, flags)]), library, [])
    except (SystemExit, subprocess.CalledProcessError) as error:
        pytest.fail(f"CuTe's headers do not compile: {error}")
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def cute() -> ctypes.CDLL:
    library = build("cute_layouts.cpp")
    library.cute_descriptor.restype = library.cute_descriptor_tf32.restype = ctypes.c_uint64
    return library


@pytest.fixture(scope="module")
def cutlass() -> ctypes.CDLL:
    return build("cute_im2col.cpp")


def cute_operand(cute, rows, mn_major) -> np.ndarray:
    offsets = np.full((rows, K), -1, np.int64)
    cute.cute_operand(int(mn_major), rows, ctypes.c_void_p(offsets.ctypes.data))
    return offsets


def cute_accumulators(cute, columns) -> np.ndarray:
    places = np.full((128, columns // 2), -1, np.int64)
    cute.cute_accumulators(columns, ctypes.c_void_p(places.ctypes.data))
    return places


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
@pytest.mark.parametrize("rows", [64, 128, 256])
def test_operands_lie_where_cute_says(cute, rows, mn_major):
    np.testing.assert_array_equal(operand_offsets(rows, mn_major), cute_operand(cute, rows, mn_major))


@pytest.mark.parametrize("columns", [64, 128, 256])
def test_accumulators_lie_where_cute_says(cute, columns):
    np.testing.assert_array_equal(accumulator_places(columns), cute_accumulators(cute, columns))


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
def test_descriptor_has_cutes_bits(cute, hopper, mn_major):  # noqa: F811
    ours = np.zeros(1, np.uint64)
    call(hopper.tile_descriptor, int(mn_major), ours)
    address_bits = 0x3FFF
    assert int(ours[0]) & ~address_bits == cute.cute_descriptor(int(mn_major)) & ~address_bits


@pytest.mark.parametrize("rows", [64, 128, 256])
def test_tf32_operands_lie_where_cute_says(cute, rows):
    offsets = np.full((rows, TF32_K), -1, np.int64)
    cute.cute_operand_tf32(rows, ctypes.c_void_p(offsets.ctypes.data))
    np.testing.assert_array_equal(tf32_offsets(rows), offsets)


def test_tf32_descriptor_has_cutes_bits(cute, hopper):  # noqa: F811
    assert cute.cute_descriptor_tf32() == cute.cute_descriptor(0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("matrices", [1, 2, 4])
def test_stmatrix_stores_where_cute_says(cute, matrices, transposed):
    places = np.full((32, matrices, 2), -1, np.int64)
    cute.cute_stored(matrices, int(transposed), ctypes.c_void_p(places.ctypes.data))
    np.testing.assert_array_equal(stored_places(matrices, transposed), places)


@pytest.mark.parametrize("majors", MAJORS, ids=["kk", "km", "mk", "mm"])
@pytest.mark.parametrize("columns", [64, 128, 256])
def test_product_of_operands_laid_out_by_cute(cute, hopper, columns, majors):  # noqa: F811
    a, b = operands(columns)

    def layout(rows, mn_major):
        return cute_operand(cute, rows, mn_major)

    def places(columns):
        return cute_accumulators(cute, columns)

    np.testing.assert_array_equal(multiply(hopper, "bfloat16", a, b, majors, layout, places), a @ b.T)


@pytest.mark.parametrize("name", [name for name, c in CONVOLUTIONS.items() if len(c.filter) == 2])
def test_corners_coordinates_and_offsets_are_cutlasss(cutlass, name):
    """With these, test_hopper_im2col.py shows, the emulator's loads are rows of the convolution's matrix."""
    c = CONVOLUTIONS[name]
    n, h, w, channels = c.shape
    before, after = zip(*c.padding, strict=True)
    geometry = np.array([n, h, w, channels, 16, *c.filter, *c.stride, *before, *after, *c.dilation], np.int32)
    taps = list(np.ndindex(*c.filter))
    pixels = n * int(np.prod(c.outputs()))
    corners, loads = np.zeros(4, np.int32), np.zeros((pixels, len(taps), 5), np.int32)
    arrays = [ctypes.c_void_p(a.ctypes.data) for a in (geometry, corners, loads)]
    assert cutlass.cutlass_im2col(*arrays) == pixels
    ours = [[c.column(m, tap, 0) for tap in taps] for m in range(pixels)]
    first = ours[0][0]
    np.testing.assert_array_equal(corners, [*first.lower[::-1], *first.upper[::-1]])
    expected = [[(o.at[2], o.at[1], o.at[0], *o.offset[::-1]) for o in row] for row in ours]
    np.testing.assert_array_equal(loads, expected)
