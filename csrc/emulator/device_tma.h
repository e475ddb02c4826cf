// Bulk copies of boxes of a tensor (TMA), which run beside the threads. A load lands when somebody has to wait for it,
// at once, or in between (FASTCONV_EMULATOR_COPIES); until then its target holds NaN. A store reads shared memory when
// its thread waits for that, or sooner. Kernels call these through csrc/cuda/primitives/tma.cuh.
#pragma once

#include <string>

#include "device.h"

namespace fastconv::emulator {

// The emulator's CUtensorMap.
struct alignas(64) TensorMap {
  uint32_t magic;
  uint16_t element_bytes, rank;
  unsigned char* base;
  uint64_t extent[5];      // in elements, the contiguous dimension first
  uint64_t stride[4];      // in bytes, of dimensions 1 to rank - 1
  uint32_t box[5];         // im2col: channels of a pixel, pixels of a column, and ones
  uint32_t swizzle_bytes;  // 0, 32, 64 or 128
  // Of the dimensions between channels and images: the corners of the box of base pixels, that at the origin and that
  // at the last pixel, and the distance of base pixels.
  int16_t lower_corner[3], upper_corner[3];
  uint8_t step[3];
  uint8_t im2col : 1;          // else tiled
  uint8_t rounds_to_tf32 : 1;  // loads do: CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
};
static_assert(sizeof(TensorMap) == 128, "as large as CUtensorMap");

// Fills `map`, or returns why cuTensorMapEncodeTiled would refuse.
std::string encode_tensor_map(TensorMap& map, void* base, int element_bytes, int rank, const uint64_t* extent,
                              const uint64_t* stride_bytes, const uint32_t* box, int swizzle_bytes);
// The same for cuTensorMapEncodeIm2col. Corners and steps: one for each dimension but the first and the last.
std::string encode_im2col_map(TensorMap& map, void* base, int element_bytes, int rank, const uint64_t* extent,
                              const uint64_t* stride_bytes, const int* lower_corner, const int* upper_corner,
                              uint32_t channels, uint32_t pixels, const uint32_t* step, int swizzle_bytes);

// Box at `coordinates` (contiguous dimension first) -> shared memory; what lies outside the tensor is zero. Its bytes
// are reported to `barrier`. With `offsets` (rank - 2 of them), an im2col load: a column of pixels from the base pixel
// at `coordinates` on, each read `offsets` further on.
void tma_load(void* shared, const TensorMap* map, uint64_t* barrier, int rank, const int* coordinates, Caller caller,
              const uint16_t* offsets = nullptr);
// The same to every block of the cluster whose bit is set in `ranks`: each gets the box, and its mbarrier the bytes, at
// the place that they have in the calling block.
void tma_load_multicast(void* shared, const TensorMap* map, uint64_t* barrier, uint16_t ranks, int rank,
                        const int* coordinates, Caller caller, const uint16_t* offsets = nullptr);
// Shared memory -> box; what lies outside the tensor is not written.
void tma_store(const TensorMap* map, const void* shared, int rank, const int* coordinates, Caller caller);
void bulk_commit_group();
// Until at most `pending` of this thread's latest groups may still read shared memory, or (not `read_only`) write
// global memory.
void bulk_wait_group(int pending, bool read_only);

}  // namespace fastconv::emulator
