// TMA copies of columns of pixels (im2col), which are rows of a convolution's implicit matrix: loads for the tensor
// maps of Im2colMapSpec (tensor_map.h). Coordinates name the channel, the base pixel (width first), which lies in the
// map's box, and the image. Base pixels follow one another through the box's rows and on to the next image; each pixel
// is read `offsets` further on than its base: zeros outside the tensor. Offsets are below 2^16, 2^8 and 2^5 for tensors
// of three, four and five dimensions. The rest as in tma.cuh. From sm_90 on.
#pragma once

#include "sm90_asm.cuh"
#include "tma.cuh"

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

__forceinline__ void tma_load_im2col_3d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w, int n,
                                        uint16_t offset_w, emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {c, w, n};
  emulator::tma_load(shared, map, barrier, 3, coordinates, caller, &offset_w);
}
__forceinline__ void tma_load_im2col_4d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w, int h,
                                        int n, uint16_t offset_w, uint16_t offset_h,
                                        emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {c, w, h, n};
  const uint16_t offsets[] = {offset_w, offset_h};
  emulator::tma_load(shared, map, barrier, 4, coordinates, caller, offsets);
}
__forceinline__ void tma_load_im2col_5d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w, int h,
                                        int d, int n, uint16_t offset_w, uint16_t offset_h, uint16_t offset_d,
                                        emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {c, w, h, d, n};
  const uint16_t offsets[] = {offset_w, offset_h, offset_d};
  emulator::tma_load(shared, map, barrier, 5, coordinates, caller, offsets);
}

#else

__device__ __forceinline__ void tma_load_im2col_3d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w,
                                                   int n, uint16_t offset_w) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2], {%6};" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(n), "h"(offset_w) : "memory");
}
__device__ __forceinline__ void tma_load_im2col_4d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w,
                                                   int h, int n, uint16_t offset_w, uint16_t offset_h) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w), "h"(offset_h) : "memory");
}
__device__ __forceinline__ void tma_load_im2col_5d(void* shared, const TensorMap* map, uint64_t* barrier, int c, int w,
                                                   int h, int d, int n, uint16_t offset_w, uint16_t offset_h,
                                                   uint16_t offset_d) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10};" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(d), "r"(n), "h"(offset_w), "h"(offset_h),
      "h"(offset_d) : "memory");
}

#endif

}  // namespace fastconv::cuda
