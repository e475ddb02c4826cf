// What depends on the GPU's architecture, as data: one file an architecture, one lookup. An architecture that is newer
// than the newest file takes that one's values. Where no measurement is named beside a value, it is counted: from
// registers, shared memory and the instructions' rates.
#pragma once

namespace fastconv::cuda {

struct GemmTuning {
  // Blocks that fit a multiprocessor at once, by registers and shared memory: tensor-core tiles of 128 x 128 and 64
  // x 64.
  int mma_large_resident, mma_small_resident;
  // Arithmetic that a 64 x 64 tile does while a 128 x 128 one does 100: it moves twice the bytes for each
  // multiplication.
  int mma_small_percent;
  // The same two for tiles on CUDA cores.
  int simt_large_resident, simt_small_resident, simt_small_percent;
  // A part of a split K has at least this many steps: below it, filling the ring and writing partial sums cost more
  // than idle multiprocessors.
  int split_min_steps;
  int split_max;  // parts: bounds the workspace
};

struct Tuning {
  GemmTuning gemm;
};

}  // namespace fastconv::cuda
