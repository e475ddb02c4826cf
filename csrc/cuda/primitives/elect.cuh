// One lane of a converged warp, the same for all who ask.
#pragma once

#include "cuda.h"

namespace fastconv::cuda {

// True in one lane. All 32 take part. Where it stands in a branch, ptxas knows that one thread runs it, which a
// comparison of threadIdx.x does not tell it.
#if defined(FASTCONV_EMULATED)
__forceinline__ bool elect_one(emulator::Caller caller = emulator::Caller::here()) {
  return emulator::self().lane == __builtin_ctz(emulator::ballot(0xffffffffu, true, caller));
}
#else
__device__ __forceinline__ bool elect_one() {
#if __CUDA_ARCH__ >= 900
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred mine;\n"
      "elect.sync _|mine, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, mine;\n"
      "}"
      : "=r"(elected));
  return elected != 0;
#else
  __trap();
  return false;
#endif
}
#endif

}  // namespace fastconv::cuda
