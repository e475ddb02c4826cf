// ldmatrix, stmatrix and mma.sync: addresses, and lanes that do not take part.
#include "../../../csrc/cuda/primitives/ldmatrix.cuh"
#include "../../../csrc/cuda/primitives/mma.cuh"
#include "../../../csrc/cuda/primitives/stmatrix.cuh"

#include "rules.h"

using namespace fastconv::cuda;

namespace {

// 32 rows of 16 bytes for each warp.
using Rows = float[2][32][4];

__device__ __forceinline__ void fill(Rows& rows) {
  for (int i = 0; i < 4; ++i) rows[threadIdx.x / 32][threadIdx.x % 32][i] = 1.0f;
}

template <bool kBroken>
__global__ void matrix_row_misaligned(float* out, int shift) {
  __shared__ __align__(16) Rows rows;
  fill(rows);
  __syncwarp();
  uint32_t r[4];
  const float* row = &rows[threadIdx.x / 32][threadIdx.x % 16][0] + (kBroken ? shift : 0);
  ldmatrix_x4(r, row);  // breaks: matrix_row_misaligned
  out[threadIdx.x] = static_cast<float>(r[0] + r[3]);
}

template <bool kBroken>
__global__ void matrix_without_barrier(float* out) {
  __shared__ __align__(16) Rows rows;
  fill(rows);
  if (!kBroken) __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, rows[threadIdx.x / 32][31 - threadIdx.x % 32]);  // breaks: matrix_without_barrier
  out[threadIdx.x] = static_cast<float>(r[0] + r[3]);
}

template <bool kBroken>
__global__ void matrix_row_uninitialised(float* out) {
  __shared__ __align__(16) Rows rows;
  if (!kBroken || threadIdx.x % 32 != 9) fill(rows);
  __syncwarp();
  uint32_t r[4];
  ldmatrix_x4_trans(r, rows[threadIdx.x / 32][threadIdx.x % 32]);  // breaks: matrix_row_uninitialised
  out[threadIdx.x] = static_cast<float>(r[0] + r[3]);
}

template <bool kBroken>
__global__ void matrix_row_out_of_bounds(float* out) {
  __shared__ __align__(16) Rows rows;
  fill(rows);
  __syncthreads();
  uint32_t r[4];
  const float* row = rows[threadIdx.x / 32][threadIdx.x % 32] + (kBroken ? 4 : 0);
  ldmatrix_x4_trans(r, row);  // breaks: matrix_row_out_of_bounds
  out[threadIdx.x] = static_cast<float>(r[0] + r[3]);
}

template <bool kBroken>
__global__ void matrix_from_global(const float* in, float* out) {
  __shared__ __align__(16) Rows rows;
  fill(rows);
  __syncwarp();
  uint32_t r[4];
  const float* row = kBroken ? in : rows[threadIdx.x / 32][threadIdx.x % 32];
  ldmatrix_x4(r, row);  // breaks: matrix_from_global
  out[threadIdx.x] = static_cast<float>(r[0] + r[3]);
}

template <bool kBroken>
__global__ void stored_row_misaligned(float* out, int shift) {
  __shared__ __align__(16) Rows rows;
  const uint32_t r[4] = {};
  float* row = rows[threadIdx.x / 32][threadIdx.x % 32];
  stmatrix(r, row + (kBroken && threadIdx.x % 32 == 3 ? shift : 0));  // breaks: stored_row_misaligned
  __syncwarp();
  out[threadIdx.x] = rows[threadIdx.x / 32][threadIdx.x % 32][0];
}

template <bool kBroken>
__global__ void stored_rows_without_barrier(float* out) {
  __shared__ __align__(16) Rows rows;
  const uint32_t r[4] = {};
  stmatrix(r, rows[threadIdx.x / 32][threadIdx.x % 32]);
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = rows[threadIdx.x / 32][31 - threadIdx.x % 32][0];  // breaks: stored_rows_without_barrier
}

// Lanes beyond the matrices' rows pass addresses that are not looked at.
template <bool kBroken>
__global__ void two_lanes_store_one_row(float* out) {
  __shared__ __align__(16) Rows rows;
  const uint32_t r[2] = {};
  stmatrix_trans(r, rows[threadIdx.x / 32][threadIdx.x % (kBroken ? 8 : 16)]);  // breaks: two_lanes_store_one_row
  __syncwarp();
  out[threadIdx.x] = rows[threadIdx.x / 32][threadIdx.x % 8][0];
}

template <bool kBroken>
__global__ void matrix_stored_to_global(float* out) {
  __shared__ __align__(16) Rows rows;
  const uint32_t r[1] = {};
  stmatrix(r, kBroken ? out : rows[threadIdx.x / 32][threadIdx.x % 32]);  // breaks: matrix_stored_to_global
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void divergent_product(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (kBroken && threadIdx.x % 32 == 31) {
    __shfl_sync(0xffffffffu, 0, 0);
  } else {
    mma_m16n8k16<half_t>(d, a, b);  // breaks: divergent_product
  }
  out[threadIdx.x] = d[0];
}

// Two mma instructions are two meetings, also where they are spelled alike.
template <bool kBroken>
__global__ void product_in_two_branches(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (kBroken && threadIdx.x % 2) {
    mma_m16n8k8_tf32(d, a, b);
  } else {
    mma_m16n8k8_tf32(d, a, b);  // breaks: product_in_two_branches
  }
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = d[0];
}

template <bool kBroken>
__global__ void product_after_return(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (kBroken && threadIdx.x == 40) return;
  mma_m16n8k16<bfloat16_t>(d, a, b);  // breaks: product_after_return
  out[threadIdx.x] = d[0];
}

template <bool kBroken>
__global__ void product_of_half_a_warp(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  mma_m16n8k16<half_t>(d, a, b);  // breaks: product_of_half_a_warp
  out[threadIdx.x] = d[0];
}

const AddCases kCases({
    RULE_CASE(matrix_row_misaligned, "misaligned-access", out, 1),
    RULE_CASE(matrix_without_barrier, "shared-race", out),
    RULE_CASE(matrix_row_uninitialised, "uninitialised-shared-read", out),
    RULE_CASE(matrix_row_out_of_bounds, "shared-out-of-bounds", out),
    RULE_CASE(matrix_from_global, "shared-address", in, out),
    RULE_CASE(stored_row_misaligned, "misaligned-access", out, 1),
    RULE_CASE(stored_rows_without_barrier, "shared-race", out),
    RULE_CASE(two_lanes_store_one_row, "shared-race", out),
    RULE_CASE(matrix_stored_to_global, "shared-address", out),
    RULE_CASE(divergent_product, "divergent-warp", out),
    RULE_CASE(product_in_two_branches, "divergent-warp", out),
    RULE_CASE(product_after_return, "warp-mask", out),
    {"product_of_half_a_warp",
     {"warp-mask",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        c.block = dim3(broken ? 48 : 64);
        cuda::launch("product_of_half_a_warp", c, broken ? product_of_half_a_warp<true> : product_of_half_a_warp<false>,
                     b.out.as<float>());
      }}},
});

}  // namespace
