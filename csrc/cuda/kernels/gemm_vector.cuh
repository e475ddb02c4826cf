// A matrix times a vector, d[r] = epilogue(sum over k of w[r, k] * x[k]): gemm where M or N is 1. Every value of w is
// used once, so that memory is the bound and a tile would be mostly empty. Two kernels, by the direction in which w
// lies:
//
//   along k       a warp (or, where rows are few, a block) sweeps a row with 16-byte loads, and its lanes add up
//   along rows    a warp reads 64 bytes of rows at 8 values of k; 8 warps take every eighth such group of k
//
// Sums are added in an order that depends on extents only. Source: the definition.
#pragma once

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

template <class T>
struct GemvParams {
  int64_t first_batch;  // of this launch
  int rows, K;
  const T* w;
  const T* x;
  T* d;
  int64_t w_stride_batch, w_stride_row, w_stride_k;  // strides in elements
  int64_t x_stride_batch, x_stride_k;
  int64_t d_stride_batch, d_stride_row;
  bool rows_are_channels;  // M = 1. Otherwise there is one channel, and rows are M
  bool x_vectors;          // x can be read in whole vectors
  int row_threads;         // along k: threads that share a row, 32 or all
  EpilogueArgs epilogue;
};

constexpr int kGemvThreads = 256, kGemvWarps = kGemvThreads / 32;

template <class T>
__device__ __forceinline__ void finish_gemv(const GemvParams<T>& params, int64_t batch, int64_t row,
                                            accumulate_t<T> sum) {
  const int64_t channel = params.rows_are_channels ? row : 0, p = params.rows_are_channels ? 0 : row;
  params.d[batch * params.d_stride_batch + row * params.d_stride_row] =
      apply_epilogue<T>(params.epilogue, sum, batch, channel, p, 0);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGemvThreads) gemv_along_k_kernel(const __grid_constant__ GemvParams<T> params) {
  using Acc = accumulate_t<T>;
  __shared__ Acc warp_sums[kGemvWarps];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % params.row_threads;
  const int64_t batch = params.first_batch + blockIdx.z;
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kGemvThreads / params.row_threads) + thread / params.row_threads;
  Acc sums[kVector] = {};
  if (row < params.rows) {
    const T* w = params.w + batch * params.w_stride_batch + row * params.w_stride_row;
    const T* x = params.x + batch * params.x_stride_batch;
#pragma unroll 4
    for (int64_t k = lane * kVector; k < params.K; k += params.row_threads * kVector) {
      const Pack<T, kVector> a = load_pack<kVector>(w + k * params.w_stride_k);
      Pack<T, kVector> b;
      if (params.x_vectors) {
        b = load_pack<kVector>(x + k);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) b.value[e] = x[(k + e) * params.x_stride_k];
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) sums[e] += to_accumulate(a.value[e]) * to_accumulate(b.value[e]);
    }
  }
  Acc sum = sums[0];
#pragma unroll
  for (int e = 1; e < kVector; ++e) sum += sums[e];
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (params.row_threads > 32) {
    if (thread % 32 == 0) warp_sums[thread / 32] = sum;
    __syncthreads();
    if (thread == 0) {
#pragma unroll
      for (int warp = 1; warp < kGemvWarps; ++warp) sum += warp_sums[warp];
    }
  }
  if (lane == 0 && row < params.rows) finish_gemv(params, batch, row, sum);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGemvThreads) gemv_along_rows_kernel(const __grid_constant__ GemvParams<T> params) {
  using Acc = accumulate_t<T>;
  constexpr int kLanes = 4, kRows = kLanes * kVector, kDepth = 32 / kLanes;  // of a warp
  __shared__ Acc warp_sums[kGemvWarps][kRows];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int64_t batch = params.first_batch + blockIdx.z;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + lane % kLanes * kVector;
  Acc sums[kVector] = {};
  if (row < params.rows) {
    const T* w = params.w + batch * params.w_stride_batch + row * params.w_stride_row;
    const T* x = params.x + batch * params.x_stride_batch;
#pragma unroll 4
    for (int64_t k = warp * kDepth + lane / kLanes; k < params.K; k += kGemvWarps * kDepth) {
      const Pack<T, kVector> a = load_pack<kVector>(w + k * params.w_stride_k);
      const Acc b = to_accumulate(x[k * params.x_stride_k]);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sums[e] += to_accumulate(a.value[e]) * b;
    }
  }
#pragma unroll
  for (int apart = kLanes; apart < 32; apart *= 2) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) sums[e] += __shfl_xor_sync(0xffffffffu, sums[e], apart);
  }
  if (lane < kLanes) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) warp_sums[warp][lane * kVector + e] = sums[e];
  }
  __syncthreads();
  const int64_t mine = static_cast<int64_t>(blockIdx.x) * kRows + thread;
  if (thread < kRows && mine < params.rows) {
    Acc sum = warp_sums[0][thread];
#pragma unroll
    for (int other = 1; other < kGemvWarps; ++other) sum += warp_sums[other][thread];
    finish_gemv(params, batch, mine, sum);
  }
}

// `multiprocessors`: of the GPU, to decide how many threads share a row.
template <class T>
void launch_gemv(const GemmCall& call, int multiprocessors, const LaunchConfig& base) {
  constexpr int kVector = 16 / sizeof(T);
  const bool row_vector = call.M == 1;  // d is a row of N, w is B transposed
  GemvParams<T> params;
  params.rows = static_cast<int>(row_vector ? call.N : call.M), params.K = static_cast<int>(call.K);
  params.w = static_cast<const T*>(row_vector ? call.b : call.a);
  params.x = static_cast<const T*>(row_vector ? call.a : call.b);
  params.d = static_cast<T*>(call.d);
  params.w_stride_batch = row_vector ? call.b_stride_batch : call.a_stride_batch;
  params.w_stride_row = row_vector ? call.b_stride_n : call.a_stride_m;
  params.w_stride_k = row_vector ? call.b_stride_k : call.a_stride_k;
  params.x_stride_batch = row_vector ? call.a_stride_batch : call.b_stride_batch;
  params.x_stride_k = row_vector ? call.a_stride_k : call.b_stride_k;
  params.d_stride_batch = call.d_stride_batch;
  params.d_stride_row = row_vector ? call.d_stride_n : call.d_stride_m;
  params.rows_are_channels = row_vector;
  params.row_threads = params.rows < multiprocessors * 2 * kGemvWarps ? kGemvThreads : 32;
  params.epilogue = call.epilogue;

  const auto apart = [&](int64_t extent, int64_t stride) { return extent == 1 || stride % kVector == 0; };
  const bool batches_apart = apart(call.batch, params.w_stride_batch);
  const bool aligned = pack_aligned(params.w, kVector) && batches_apart;
  const bool along_rows = params.w_stride_row == 1 && params.w_stride_k != 1;
  const bool vectors = aligned && (along_rows ? params.rows % kVector == 0 && apart(params.K, params.w_stride_k)
                                              : params.w_stride_k == 1 && params.K % kVector == 0 &&
                                                    apart(params.rows, params.w_stride_row));
  params.x_vectors = params.x_stride_k == 1 && pack_aligned(params.x, vectors ? kVector : 1) &&
                     (!vectors || apart(call.batch, params.x_stride_batch));

  LaunchConfig config = base;
  config.block = dim3(kGemvThreads);
  const int vector = vectors ? kVector : 1;
  const int block_rows = along_rows ? 4 * vector : kGemvThreads / params.row_threads;
  constexpr int64_t kMaxGridZ = 65535;
  for (params.first_batch = 0; params.first_batch < call.batch; params.first_batch += kMaxGridZ) {
    const int64_t batches = call.batch - params.first_batch;
    config.grid = dim3(static_cast<unsigned>((params.rows + block_rows - 1) / block_rows), 1,
                       static_cast<unsigned>(batches < kMaxGridZ ? batches : kMaxGridZ));
    if (along_rows) {
      launch("gemv_along_rows", config, vectors ? gemv_along_rows_kernel<T, kVector> : gemv_along_rows_kernel<T, 1>,
             params);
    } else {
      launch("gemv_along_k", config, vectors ? gemv_along_k_kernel<T, kVector> : gemv_along_k_kernel<T, 1>, params);
    }
  }
}

}  // namespace fastconv::cuda
