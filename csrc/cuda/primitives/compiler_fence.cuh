// Keeps the compiler from carrying values of memory across this point in registers. It orders nothing on the GPU.
#pragma once

#include "cuda.h"

namespace fastconv::cuda {

// In a loop that reads the same shared memory every time: nvcc would load all of it before the loop, and spill.
__device__ __forceinline__ void compiler_fence() {
#if !defined(FASTCONV_EMULATED)
  asm volatile("" ::: "memory");
#endif
}

}  // namespace fastconv::cuda
