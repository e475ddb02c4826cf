// What depends on the GPU's architecture, as data: one file an architecture, one lookup. An architecture that is newer
// than the newest file takes that one's values. Where no measurement is named beside a value, it is counted, not
// measured: from registers, shared memory, and the rates of instructions and memory. csrc/cuda/model.h turns them into
// predicted times.
#pragma once

namespace fastconv::cuda {

struct Tuning {
  double clock;  // cycles a second
  // Multiply-adds of one multiprocessor in a clock: on tensor cores in 16 bits by wgmma and by mma.sync (tf32 does
  // half), float on CUDA cores (double half).
  int wgmma_rate, mma_rate, simt_rate;
  // Bytes in a clock: through one multiprocessor's shared memory, out of the L2 cache to one of them and to all
  // together, and one multiprocessor's share of the memory bandwidth.
  int shared_rate, l2_rate_each, l2_rate_all, memory_rate;
  double l2_bytes;  // what the L2 cache holds
  // Clocks before a block's first and after its last multiplication, and of a kernel's launch behind another one.
  int block_overhead, launch_overhead;
  // Blocks that one multiprocessor holds at once, by registers and shared memory: tensor-core tiles (mma.sync) of 128 x
  // 128 and of 64 x 64, tiles on CUDA cores of 128 x 128 and of 64 x 64.
  int mma_large_resident, mma_small_resident, simt_large_resident, simt_small_resident;
  // Percent of the rate that a thread's tile on CUDA cores leaves for arithmetic, the rest being loads: 8 x 8, 4 x 4.
  int simt_large_percent, simt_small_percent;
  int split_max;  // parts of a split K: bounds the workspace
};

}  // namespace fastconv::cuda
