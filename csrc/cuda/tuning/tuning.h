// What depends on the GPU's architecture, as data: one file an architecture, one lookup. An architecture that is newer
// than the newest file takes that one's values. Where no measurement is named beside a value, it is counted, not
// measured: from registers, shared memory, and the rates of instructions and memory.
#pragma once

namespace fastconv::cuda {

struct GemmTuning {
  // Blocks that one multiprocessor holds at once, by registers and shared memory: tensor-core tiles of 128 x 128 and of
  // 64 x 64.
  int mma_large_resident, mma_small_resident;
  // Arithmetic that 64 x 64 tiles get done while 128 x 128 ones do 100: they move twice the bytes for a multiplication.
  int mma_small_percent;
  // The same three for the tiles on CUDA cores.
  int simt_large_resident, simt_small_resident, simt_small_percent;
  // Multiply-adds of one multiprocessor in a clock: mma.sync in 16 bits (tf32 does half), float on CUDA cores (double
  // half).
  int mma_rate, simt_rate;
  // Bytes that one multiprocessor's share of the memory bandwidth moves in a clock.
  int memory_rate;
  // Clocks before a block's first and after its last multiplication, and of a second kernel's launch in the same
  // stream.
  int block_overhead, launch_overhead;
  int split_max;  // parts of a split K: bounds the workspace
};

struct Tuning {
  GemmTuning gemm;
};

}  // namespace fastconv::cuda
