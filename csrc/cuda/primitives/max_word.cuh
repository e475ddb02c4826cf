// The larger of two floats, or of each of two pairs of 16-bit elements, in registers of 32 bits; NaN if either is. One
// instruction from sm_80 on, where comparing and selecting single elements takes three to eight.
#pragma once

#include <cstring>
#include <type_traits>

#include "../../common/dtypes.h"
#include "cuda.h"

namespace fastconv::cuda {

template <class T>
__device__ __forceinline__ uint32_t max_word(uint32_t a, uint32_t b) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, half_t> || std::is_same_v<T, bfloat16_t>);
#if !defined(FASTCONV_EMULATED) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t larger;
  if constexpr (std::is_same_v<T, float>) {
    asm("max.NaN.f32 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  } else if constexpr (std::is_same_v<T, half_t>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  }
  return larger;
#else
  constexpr int kElements = 4 / sizeof(T);
  T u[kElements], v[kElements];
  memcpy(u, &a, 4);
  memcpy(v, &b, 4);
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const float first = to_accumulate(u[e]), second = to_accumulate(v[e]);
    if (second > first || second != second) u[e] = v[e];
  }
  uint32_t larger;
  memcpy(&larger, u, 4);
  return larger;
#endif
}

}  // namespace fastconv::cuda
