"""Clusters of the emulator against NumPy: ranks, multicast copies, the shared memory of other blocks."""

import numpy as np
import pytest
from emulator_build import build_kernels
from test_hopper_products import call, swizzle

ROWS, COLUMNS = 8, 32  # of a box


@pytest.fixture(scope="module")
def kernels():
    return build_kernels("cluster_products.cu")


@pytest.mark.parametrize("copies", ["lazy", "eager", "rand:1"])
@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2"])
@pytest.mark.parametrize(("grid", "rounds"), [((1, 1), 1), ((1, 1), 5), ((2, 3), 3)], ids=str)
def test_multicast_reaches_every_block(kernels, grid, rounds, schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    rows, columns = grid
    boxes = np.random.default_rng(0).integers(-99, 99, (4, rows * columns, rounds, ROWS, COLUMNS)).astype(np.float32)
    out = np.zeros((2 * rows, 2 * columns, ROWS * COLUMNS), np.float32)
    call(kernels.cluster_gather, columns, rows, rounds, boxes, out)
    of_cluster = boxes.sum((0, 2)).reshape(rows, columns, -1)
    expected = np.zeros_like(out)
    for row, column in np.ndindex(2 * rows, 2 * columns):
        at = swizzle(np.arange(0, ROWS * COLUMNS * 4, 4), 128) // 4
        expected[row, column, at] = of_cluster[row // 2, column // 2]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1"])
def test_ranks_and_memory_of_other_blocks(kernels, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    values = np.random.default_rng(1).integers(0, 99, (4, 12)).astype(np.float32)
    out = np.zeros_like(values)
    call(kernels.cluster_sum, 3, 2, values, out)
    sums = values.reshape(2, 2, 3, 4).sum((1, 3))
    expected = np.repeat(np.repeat(sums, 2, 0), 4, 1)
    ranks = np.tile(np.arange(8).reshape(2, 4), (2, 3))
    np.testing.assert_array_equal(out, expected + 1000 * ranks)
