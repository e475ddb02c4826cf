// Columns of pixels for test_hopper_im2col.py: one im2col load through shared memory, of a tensor of three to five
// dimensions.
#include "../../csrc/cuda/primitives/launch.h"
#include "../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../csrc/cuda/primitives/tensor_map.h"
#include "../../csrc/cuda/primitives/tma_im2col.cuh"
#include "guarded.h"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

constexpr int kThreads = 64;

struct ColumnParams {
  TensorMap map;
  int rank, at[5];
  uint16_t offset[3];
  int bytes;  // of the column
  unsigned char* image;
};

// A column to shared memory, and what lies there to `image`.
__global__ void load_column_kernel(const __grid_constant__ ColumnParams p) {
  unsigned char* tile = dynamic_shared_memory();
  uint64_t* full = reinterpret_cast<uint64_t*>(tile + p.bytes);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(full, static_cast<uint32_t>(p.bytes));
    const int* at = p.at;
    const uint16_t* o = p.offset;
    if (p.rank == 3) tma_load_im2col_3d(tile, &p.map, full, at[0], at[1], at[2], o[0]);
    if (p.rank == 4) tma_load_im2col_4d(tile, &p.map, full, at[0], at[1], at[2], at[3], o[0], o[1]);
    if (p.rank == 5) tma_load_im2col_5d(tile, &p.map, full, at[0], at[1], at[2], at[3], at[4], o[0], o[1], o[2]);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
  for (int i = static_cast<int>(threadIdx.x); i < p.bytes; i += kThreads) p.image[i] = tile[i];
}

}  // namespace

// A float32 tensor of `extent`, channels first and dense but for `stride`, in elements. All arrays: innermost dimension
// first; corners, steps and offsets without channel and image.
FASTCONV_EXPORT int load_column(int rank, float* data, const int64_t* extent, const int64_t* stride,
                                const int64_t* lower, const int64_t* upper, const int64_t* step, int channels,
                                int pixels, const int64_t* at, const int64_t* offset, int swizzle_bytes,
                                unsigned char* image, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    Im2colMapSpec spec{data, DType::kFloat32, rank, {}, {}, {}, {}, {}, 0, 0, swizzle_bytes};
    ColumnParams params = {};
    size_t elements = 1;
    for (int d = 0; d < rank; ++d) {
      spec.extent[d] = static_cast<uint64_t>(extent[d]);
      spec.stride[d] = static_cast<uint64_t>(stride[d]);
      params.at[d] = static_cast<int>(at[d]);
      elements += (spec.extent[d] - 1) * spec.stride[d];
    }
    for (int d = 0; d < rank - 2; ++d) {
      spec.lower_corner[d] = static_cast<int>(lower[d]);
      spec.upper_corner[d] = static_cast<int>(upper[d]);
      spec.step[d] = static_cast<uint32_t>(step[d]);
      params.offset[d] = static_cast<uint16_t>(offset[d]);
    }
    spec.channels = static_cast<uint32_t>(channels), spec.pixels = static_cast<uint32_t>(pixels);
    params.map = make_im2col_map("tensor", spec);
    params.rank = rank;
    params.bytes = channels * pixels * static_cast<int>(sizeof(float));
    params.image = image;
    LaunchConfig config;
    config.grid = dim3(1);
    config.block = dim3(kThreads);
    config.dynamic_shared_bytes = static_cast<size_t>(params.bytes) + sizeof(uint64_t);
    config.footprint.reads("tensor", data, elements * sizeof(float));
    config.footprint.writes("image", image, static_cast<size_t>(params.bytes));
    launch("load_column", config, load_column_kernel, params);
  });
}
