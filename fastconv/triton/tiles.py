"""Block sizes by problem: fixed tables, so that no call stalls to try candidates and no result depends on timing."""

from __future__ import annotations

from typing import NamedTuple

import torch

# Programs that keep a large GPU busy: two for each of an H200's 132 multiprocessors. A constant, not the device's own
# count: sums must be cut at the same places on every GPU.
PROGRAMS = 264
# The interpreter takes its time by the operation, whatever its size: larger tiles there, for fewer programs.
INTERPRETED_ELEMENTS = 4096
GPU_ELEMENTS = 1024


class ProductTile(NamedTuple):
    """BLOCK_M rows by BLOCK_N columns, BLOCK_K of the reduction at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        """As a kernel's keyword arguments."""
        return {
            "BLOCK_M": self.m,
            "BLOCK_N": self.n,
            "BLOCK_K": self.k,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def power_of_two(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << max(n - 1, 0).bit_length()


def clamped(n: int, low: int, high: int) -> int:
    return max(low, min(power_of_two(n), high))


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def product_tile(m: int, n: int, k: int, dtype: torch.dtype, interpreted: bool) -> ProductTile:
    """The tile of an m by n product over k."""
    if interpreted:
        return ProductTile(clamped(m, 16, 128), clamped(n, 16, 64), clamped(k, 16, 128), warps=4, stages=1)
    if dtype is torch.float64:
        # All products of a step are in registers at once: 16 * 16 * 8 doubles are 32 registers of 128 threads each.
        return ProductTile(16, 16, 8, warps=4, stages=1)
    if dtype in (torch.float16, torch.bfloat16):
        # 128 x 128 is 64 accumulators a thread of 256; three stages of 64 are 96 KiB of shared memory.
        largest, depth, stages = 128, 64, 3
    else:
        # Exact float32 runs on the CUDA cores and is bound by them: a smaller tile leaves registers for the operands.
        largest, depth, stages = 64, 32, 2
    rows, columns = clamped(m, 16, largest), clamped(n, 16, largest)
    while rows * columns > 32 * 32 and ceil_div(m, rows) * ceil_div(n, columns) < PROGRAMS // 2:
        # Fewer tiles than multiprocessors: halve the longer side, down to what still feeds a tensor core.
        rows, columns = (rows // 2, columns) if rows >= columns else (rows, columns // 2)
    return ProductTile(rows, columns, clamped(k, 16, depth), warps=8 if rows * columns > 64 * 64 else 4, stages=stages)


def reduction_block(channels: int, depth: int, interpreted: bool) -> tuple[int, bool]:
    """BLOCK_K of a convolution over `channels` a tap, and whether blocks run across taps (FLAT).

    Whole blocks within a tap where the channels allow them: addresses are cheap there. Few or odd channels are cut
    anywhere instead of padded; of many, the padding of the last block does not matter.
    """
    whole = channels & -channels
    if whole >= (64 if interpreted else 16):
        return min(whole, depth), False
    if channels >= 4 * depth:
        return depth, False
    # Every element of such a block has an address of its own: 64 deep, those alone would fill the registers.
    return (depth if interpreted else min(depth, 32)), True


def pixel_tile(rows: int, channels: int, channels_last: bool, interpreted: bool) -> tuple[int, int]:
    """(pixels, channels) of a program that does without products: long along what lies together in memory."""
    elements = INTERPRETED_ELEMENTS if interpreted else GPU_ELEMENTS
    if channels_last:
        across = clamped(channels, 1, 64)
        return clamped(rows, 1, elements // across), across
    along = clamped(rows, 1, elements)
    return along, clamped(channels, 1, elements // along)


def splits(tiles: int, length: int, block: int) -> tuple[int, int]:
    """(runs, length of each) that a reduction of `length` is cut into, a run being whole blocks.

    Enough programs for a large GPU, but at least four blocks each: a run costs a workspace slice and a reload of it.
    """
    runs = max(1, min(ceil_div(PROGRAMS, max(tiles, 1)), ceil_div(length, 4 * block)))
    run = ceil_div(ceil_div(length, runs), block) * block
    return ceil_div(length, run) if length else 1, run
