// Rules of im2col loads: a column of 16 pixels of 4 channels, which is the whole buffer.
#include "../../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../../csrc/cuda/primitives/tensor_map.h"
#include "../../../csrc/cuda/primitives/tma_im2col.cuh"
#include "rules.h"

using namespace fastconv::cuda;

namespace {

constexpr int kChannels = 4, kPixels = 16;
constexpr uint32_t kColumnBytes = kChannels * kPixels * sizeof(float);

struct Column {
  float value[kChannels * kPixels];
  uint64_t full;
};
__device__ Column& column() { return *reinterpret_cast<Column*>(dynamic_shared_memory()); }

// One load, all wait.
#define LOAD_AND_WAIT(s, load)                     \
  if (threadIdx.x == 0) {                          \
    mbarrier_init(&s.full, 1);                     \
    fence_mbarrier_init();                         \
    mbarrier_arrive_expect(&s.full, kColumnBytes); \
    load;                                          \
  }                                                \
  __syncthreads();                                 \
  mbarrier_wait(&s.full, 0);                       \
  out[threadIdx.x] = s.value[threadIdx.x]

// Base pixels end one row and one column before the image does.
template <bool kBroken>
__global__ void base_after_the_box(const __grid_constant__ TensorMap map, float* out) {
  Column& s = column();
  const int h = kBroken ? 3 : 2;
  LOAD_AND_WAIT(s, tma_load_im2col_4d(s.value, &map, &s.full, 0, 0, h, 0, 1, 1));  // breaks: base_after_the_box
}

template <bool kBroken>
__global__ void base_before_the_box(const __grid_constant__ TensorMap map, float* out) {
  Column& s = column();
  const int w = kBroken ? -2 : -1;
  LOAD_AND_WAIT(s, tma_load_im2col_4d(s.value, &map, &s.full, 0, w, 0, 0, 0, 0));  // breaks: base_before_the_box
}

template <bool kBroken>
__global__ void offset_of_nine_bits(const __grid_constant__ TensorMap map, float* out) {
  Column& s = column();
  const uint16_t offset = kBroken ? 256 : 255;
  LOAD_AND_WAIT(s, tma_load_im2col_4d(s.value, &map, &s.full, 0, 0, 0, 0, 0, offset));  // breaks: offset_of_nine_bits
}

template <bool kBroken>
__global__ void im2col_load_of_a_tiled_map(const __grid_constant__ TensorMap map,
                                           const __grid_constant__ TensorMap tiled, float* out) {
  Column& s = column();
  const TensorMap* used = kBroken ? &tiled : &map;
  LOAD_AND_WAIT(s, tma_load_im2col_4d(s.value, used, &s.full, 0, 0, 0, 0, 0, 0));  // breaks: im2col_load_of_a_tiled_map
}

template <bool kBroken>
__global__ void tiled_load_of_an_im2col_map(const __grid_constant__ TensorMap row,
                                            const __grid_constant__ TensorMap tiled, float* out) {
  Column& s = column();
  const TensorMap* used = kBroken ? &row : &tiled;
  LOAD_AND_WAIT(s, tma_load_3d(s.value, used, &s.full, 0, 0, 0));  // breaks: tiled_load_of_an_im2col_map
}

template <bool kBroken>
__global__ void store_through_an_im2col_map(const __grid_constant__ TensorMap row,
                                            const __grid_constant__ TensorMap tiled) {
  Column& s = column();
  s.value[threadIdx.x] = 1.0f;
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_3d(kBroken ? &row : &tiled, s.value, 0, 0, 0);  // breaks: store_through_an_im2col_map
    tma_commit_stores();
    tma_wait_stores<0>();
  }
}

template <bool kBroken>
__global__ void im2col_of_another_rank(const __grid_constant__ TensorMap map, const __grid_constant__ TensorMap row,
                                       float* out) {
  Column& s = column();
  const TensorMap* used = kBroken ? &map : &row;
  LOAD_AND_WAIT(s, tma_load_im2col_3d(s.value, used, &s.full, 0, 0, 0, 0));  // breaks: im2col_of_another_rank
}

// The map says there are two images; the column goes on to the second.
template <bool kBroken>
__global__ void column_past_the_last_image(const __grid_constant__ TensorMap two_images,
                                           const __grid_constant__ TensorMap map, float* out) {
  Column& s = column();
  const TensorMap* used = kBroken ? &two_images : &map;
  LOAD_AND_WAIT(s, tma_load_im2col_4d(s.value, used, &s.full, 0, 0, 2, 0, 0, 0));  // breaks: column_past_the_last_image
}

template <bool kBroken>
__global__ void column_read_before_the_wait(const __grid_constant__ TensorMap map, float* out) {
  Column& s = column();
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&s.full, kColumnBytes);
    tma_load_im2col_4d(s.value, &map, &s.full, 0, 0, 0, 0, 0, 0);
  }
  __syncthreads();
  if (!kBroken) mbarrier_wait(&s.full, 0);
  out[threadIdx.x] = s.value[threadIdx.x];  // breaks: column_read_before_the_wait
  if (kBroken) mbarrier_wait(&s.full, 0);
}

// Images of 4 x 4 pixels.
TensorMap image_map(const float* data, uint64_t images) {
  return make_im2col_map("images", {data,
                                    DType::kFloat32,
                                    4,
                                    {kChannels, 4, 4, images},
                                    {1, kChannels, 4 * kChannels, kPixels * kChannels},
                                    {-1, -1},
                                    {-1, -1},
                                    {1, 1},
                                    kChannels,
                                    kPixels,
                                    0});
}
// The same memory as one row of 16 pixels.
TensorMap row_map(const float* data) {
  return make_im2col_map("row", {data,
                                 DType::kFloat32,
                                 3,
                                 {kChannels, kPixels, 1},
                                 {1, kChannels, kPixels * kChannels},
                                 {0},
                                 {0},
                                 {1},
                                 kChannels,
                                 kPixels,
                                 0});
}
TensorMap tiled_map(const float* data, int rank) {
  return make_tensor_map("tiles", {data,
                                   DType::kFloat32,
                                   rank,
                                   {kChannels, kPixels, 1, 1},
                                   {1, kChannels, kPixels * kChannels, kPixels * kChannels},
                                   {kChannels, kPixels, 1, 1},
                                   0});
}

// With a column in shared memory.
#define IM2COL_CASE(name, rule, ...) SHARED_RULE_CASE(sizeof(Column), name, rule, __VA_ARGS__)

const AddCases kCases({
    IM2COL_CASE(base_after_the_box, "im2col-base", image_map(in, 1), out),
    IM2COL_CASE(base_before_the_box, "im2col-base", image_map(in, 1), out),
    IM2COL_CASE(offset_of_nine_bits, "im2col-offset", image_map(in, 1), out),
    IM2COL_CASE(im2col_load_of_a_tiled_map, "tensor-map", image_map(in, 1), tiled_map(in, 4), out),
    IM2COL_CASE(tiled_load_of_an_im2col_map, "tensor-map", row_map(in), tiled_map(in, 3), out),
    IM2COL_CASE(store_through_an_im2col_map, "tensor-map", row_map(out), tiled_map(out, 3)),
    IM2COL_CASE(im2col_of_another_rank, "tensor-map", image_map(in, 1), row_map(in), out),
    IM2COL_CASE(column_past_the_last_image, "global-out-of-bounds", image_map(in, 2), image_map(in, 1), out),
    IM2COL_CASE(column_read_before_the_wait, "shared-race", image_map(in, 1), out),
});

}  // namespace
