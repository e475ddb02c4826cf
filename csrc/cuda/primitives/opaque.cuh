// Against registers that are held too long: the compiler likes to compute, once and early, whatever depends on the
// thread's index alone, and then keeps it through the main loop.
#pragma once

#include "cuda.h"

namespace fastconv::cuda {

// `value` unchanged, but not known to the compiler to be so: what is derived from the result is computed after this.
__device__ __forceinline__ int opaque(int value) {
#if !defined(FASTCONV_EMULATED)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

}  // namespace fastconv::cuda
