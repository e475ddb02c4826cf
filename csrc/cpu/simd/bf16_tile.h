// What the two bfloat16 kernels (amx.h, avx512_bf16.h) are asked: the sums of some pixels x 16 or 32 filters.
#pragma once

#include "../../common/dtypes.h"
#include "../../common/host_device.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

struct TileArgs {
  const char* pixels[2];   // first channel of the first pixel, of each tile
  int64_t pixel_step;      // bytes from one pixel of a tile to the next
  const int64_t* offsets;  // bytes from there to the first channel of every step
  int64_t steps;
  int64_t channels;        // of a step, even
  const char* filters[2];  // of each block of 16 filters: `steps` times channels / 2 rows of 64 bytes
  float* sums;             // [tile][kRows][32], as for `store`
  bool more = false;       // whether to go on from `sums`, where an engine can (kSlices)
  // Filters to be brought into L2 meanwhile, `next_lines` of 64 bytes a step: 0, 4 or 16.
  const char* next = nullptr;
  int64_t next_lines = 0;
};

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
