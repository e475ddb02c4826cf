// Matrix products of a warpgroup (wgmma), which run beside its threads: operands are read, and accumulators written, at
// the wait; until then the accumulators hold NaN. Kernels call these through csrc/cuda/primitives/wgmma.cuh.
#pragma once

#include "device.h"

namespace fastconv::emulator {

enum class WgmmaType { kHalf, kBFloat16, kTf32 };

// d += A * B, 64 x columns x 16, one operand element 16 bits; or x 8 with tf32, 32 bits of which the low 13 are
// ignored.
struct WgmmaOperation {
  WgmmaType type;
  int columns;
  uint64_t a, b;                // descriptors
  bool a_mn_major, b_mn_major;  // K lies in the outer direction; not with tf32
  bool accumulate;              // else d = A * B

  bool operator==(const WgmmaOperation& o) const {
    return type == o.type && columns == o.columns && a == o.a && b == o.b && a_mn_major == o.a_mn_major &&
           b_mn_major == o.b_mn_major && accumulate == o.accumulate;
  }
};

void wgmma_fence();
// `d`: the calling thread's columns / 2 accumulators.
void wgmma(float* d, const WgmmaOperation& operation, Caller caller);
void wgmma_commit_group();
void wgmma_wait_group(int pending, Caller caller);

}  // namespace fastconv::emulator
