// mma.sync: a warp multiplies two small matrices, d += a * b with d in f32: A is row-major, B column-major. With g =
// lane / 4 and t = lane % 4, m16n8k16 holds (two 16-bit elements a register, the first in the low half)
//   a[0] (g, 2t)   a[1] (g + 8, 2t)   a[2] (g, 2t + 8)   a[3] (g + 8, 2t + 8)      what ldmatrix_x4 gives
//   b[0] (2t, g)   b[1] (2t + 8, g)                                                half of ldmatrix_x4: two b at once
//   d[0] (g, 2t)   d[1] (g, 2t + 1)   d[2] (g + 8, 2t)   d[3] (g + 8, 2t + 1)
// and m16n8k8 for tf32 the same with one 32-bit element a register: a[1] (g + 8, t), a[2] (g, t + 4), b[1] (t + 4, g).
// All 32 lanes take part. From sm_80 on.
#pragma once

#include <type_traits>

#include "../../common/dtypes.h"
#include "cuda.h"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_tensor_cores.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

template <class T>
__forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                  emulator::Caller caller = emulator::Caller::here()) {
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bfloat16_t>, "the 16-bit types");
  constexpr auto kElement =
      std::is_same_v<T, half_t> ? emulator::MatrixElement::kHalf : emulator::MatrixElement::kBFloat16;
  emulator::multiply_matrices(d, a, b, kElement, caller);
}

__forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                      emulator::Caller caller = emulator::Caller::here()) {
  emulator::multiply_matrices(d, a, b, emulator::MatrixElement::kTf32, caller);
}

#else

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bfloat16_t>, "the 16-bit types");
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, half_t>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  __trap();
#endif
}

// Reads the upper 19 bits of each element of a and b; to_tf32() rounds to them instead of cutting off.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

#endif

// A float with its mantissa rounded to 10 bits, to nearest, ties away from zero (cvt.rna.tf32).
__device__ __forceinline__ uint32_t to_tf32(float v) {
#if defined(FASTCONV_EMULATED)
  const uint32_t bits = detail::float_bits(v);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffffffu;  // nan
  return magnitude == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
#elif __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
#else
  __trap();
  return 0;
#endif
}

}  // namespace fastconv::cuda
