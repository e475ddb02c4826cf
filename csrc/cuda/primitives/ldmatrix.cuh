// ldmatrix: a warp loads 8 x 8 matrices of 16-bit elements from shared memory into the fragments that mma takes. Lane
// 8 * i + j passes the address of row j of matrix i: 16 bytes, aligned to 16. Afterwards r[i] of lane l holds elements
// (l / 4, l % 4 * 2) and the next of matrix i; with _trans of the transposed matrix. All 32 lanes take part. For tf32 a
// row is four 32-bit elements: r[i] is then element (l / 4, l % 4), and _trans is of no use. From sm_75 on.
#pragma once

#include "shared_address.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_tensor_cores.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

__forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row,
                                 emulator::Caller caller = emulator::Caller::here()) {
  emulator::load_matrices(r, 4, false, shared_row, caller);
}
__forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row,
                                       emulator::Caller caller = emulator::Caller::here()) {
  emulator::load_matrices(r, 4, true, shared_row, caller);
}

#else

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

#endif

}  // namespace fastconv::cuda
