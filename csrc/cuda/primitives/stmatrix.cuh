// stmatrix: a warp stores 8 x 8 matrices of 16-bit elements to shared memory, from the fragments that mma and wgmma
// give. Lane 8 * i + j passes the address of row j of matrix i: 16 bytes, aligned to 16; r[i] of lane l holds elements
// (l / 4, l % 4 * 2) and the next of matrix i, with _trans of the transposed matrix. kMatrices is 1, 2 or 4. All 32
// lanes take part. From sm_90 on.
#pragma once

#include "shared_address.cuh"
#include "sm90_asm.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_tensor_cores.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

template <int kMatrices>
__forceinline__ void stmatrix(const uint32_t (&r)[kMatrices], void* shared_row,
                              emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  emulator::store_matrices(r, kMatrices, false, shared_row, caller);
}
template <int kMatrices>
__forceinline__ void stmatrix_trans(const uint32_t (&r)[kMatrices], void* shared_row,
                                    emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  emulator::store_matrices(r, kMatrices, true, shared_row, caller);
}

#else

#define FASTCONV_STMATRIX(modifier)                                                                                 \
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);                                                \
  [[maybe_unused]] const uint32_t address = shared_address(shared_row);                                             \
  if constexpr (kMatrices == 1) {                                                                                   \
    FASTCONV_SM90("stmatrix.sync.aligned.m8n8.x1" modifier ".shared.b16 [%0], {%1};" ::"r"(address),                \
                  "r"(r[0]) : "memory");                                                                            \
  } else if constexpr (kMatrices == 2) {                                                                            \
    FASTCONV_SM90("stmatrix.sync.aligned.m8n8.x2" modifier ".shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(r[0]), \
                  "r"(r[1]) : "memory");                                                                            \
  } else {                                                                                                          \
    FASTCONV_SM90("stmatrix.sync.aligned.m8n8.x4" modifier ".shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),    \
                  "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");                                           \
  }

template <int kMatrices>
__device__ __forceinline__ void stmatrix(const uint32_t (&r)[kMatrices], void* shared_row) {
  FASTCONV_STMATRIX("")
}
template <int kMatrices>
__device__ __forceinline__ void stmatrix_trans(const uint32_t (&r)[kMatrices], void* shared_row) {
  FASTCONV_STMATRIX(".trans")
}

#undef FASTCONV_STMATRIX

#endif

}  // namespace fastconv::cuda
