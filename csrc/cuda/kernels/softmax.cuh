// Softmax over the middle axis of (outer, axis, inner), and its gradient dx = y * (dy - sum(dy * y)). A block of 256
// threads holds `columns` neighbouring (outer, inner) columns, each worked on by 256 / columns threads:
//
//   inner == 1   a column is a row in memory: its threads are neighbours and move packs where they can; 8 rows a block
//                (a warp each), or 1 for long rows
//   else         neighbouring columns lie in neighbouring lanes, so that accesses are coalesced
//
// Every thread keeps a running maximum and a sum scaled to it (Milakov and Gimelshein), and the threads of a column
// combine theirs through shared memory. x is read twice, the second time mostly from cache; nothing is stored between.
#pragma once

#include "../../common/calls.h"
#include "image_index.cuh"

namespace fastconv::cuda {

template <class T, int kPack_>
struct SoftmaxConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_, kThreads = kFlatThreads;
  static_assert(kPack * sizeof(T) <= 16);
};

struct SoftmaxParams {
  const void* x;  // backward: y of the forward
  const void* dy;
  void* y;  // backward: dx
  int64_t columns, axis, inner;
  Divider inner_divider;
  int block_columns;      // a power of two
  bool columns_in_lanes;  // neighbouring threads: neighbouring columns, else one column's
};

// A thread's part of the work: its column, and which elements of it.
struct SoftmaxShare {
  int column, helper, helpers;  // in the block; of the column's threads
  int64_t first;                // element of the column's start
  bool inside;

  __device__ __forceinline__ explicit SoftmaxShare(const SoftmaxParams& params) {
    const int thread = static_cast<int>(threadIdx.x);
    helpers = kFlatThreads / params.block_columns;
    column = params.columns_in_lanes ? thread % params.block_columns : thread / helpers;
    helper = params.columns_in_lanes ? thread / params.block_columns : thread % helpers;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * params.block_columns + column;
    inside = at < params.columns;
    int64_t rest;
    const int64_t outer = params.inner_divider.divide(inside ? at : 0, rest);
    first = outer * params.axis * params.inner + rest;
  }
  // Where the block keeps this thread's value: a column's are 256 / columns apart or together, as its threads are.
  __device__ __forceinline__ int slot(const SoftmaxParams& params, int of_helper) const {
    return params.columns_in_lanes ? of_helper * params.block_columns + column : column * helpers + of_helper;
  }
};

// exp(a - b), with nothing left of a part that has no element yet.
template <class Acc>
__device__ __forceinline__ Acc softmax_scale(Acc a, Acc b) {
  return a == -static_cast<Acc>(INFINITY) ? Acc(0) : vexp(a - b);
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) softmax_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack;
  __shared__ Acc tops[Config::kThreads], sums[Config::kThreads];
  const SoftmaxShare share(params);
  const int thread = static_cast<int>(threadIdx.x);
  const T* x = static_cast<const T*>(params.x) + share.first;
  T* y = static_cast<T*>(params.y) + share.first;
  const int64_t start = static_cast<int64_t>(share.helper) * kPack, step = static_cast<int64_t>(share.helpers) * kPack;
  const int64_t end = share.inside ? params.axis : 0;

  Acc top = -static_cast<Acc>(INFINITY), sum(0);
#pragma unroll 1
  for (int64_t a = start; a < end; a += step) {
    const Pack<T, kPack> v = load_pack<kPack>(x + a * params.inner);
    Acc higher = top;
#pragma unroll
    for (int e = 0; e < kPack; ++e) higher = max_nan(to_accumulate(v.value[e]), higher);
    sum *= softmax_scale(top, higher);
    top = higher;
#pragma unroll
    for (int e = 0; e < kPack; ++e) sum += softmax_scale(to_accumulate(v.value[e]), top);
  }
  for (int half = share.helpers / 2; half > 0; half /= 2) {
    tops[thread] = top;
    sums[thread] = sum;
    __syncthreads();
    if (share.helper < half) {
      const int other = share.slot(params, share.helper + half);
      const Acc other_top = tops[other], higher = max_nan(other_top, top);
      sum = sum * softmax_scale(top, higher) + sums[other] * softmax_scale(other_top, higher);
      top = higher;
    }
    __syncthreads();
  }
  if (share.helper == 0) {
    tops[thread] = top;
    sums[thread] = sum;
  }
  __syncthreads();
  top = tops[share.slot(params, 0)];
  sum = sums[share.slot(params, 0)];

  // A column of -inf has sum 0 and gives exp(-inf + inf) = NaN, as torch's does.
  const Acc factor = Acc(1) / sum;
#pragma unroll 1
  for (int64_t a = start; a < end; a += step) {
    const Pack<T, kPack> v = load_pack<kPack>(x + a * params.inner);
    Pack<T, kPack> out;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      out.value[e] = from_accumulate<T>(vexp(to_accumulate(v.value[e]) - top) * factor);
    }
    store_pack<kPack>(y + a * params.inner, out);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) softmax_backward_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack;
  __shared__ Acc sums[Config::kThreads];
  const SoftmaxShare share(params);
  const int thread = static_cast<int>(threadIdx.x);
  const T* y = static_cast<const T*>(params.x) + share.first;
  const T* dy = static_cast<const T*>(params.dy) + share.first;
  T* dx = static_cast<T*>(params.y) + share.first;
  const int64_t start = static_cast<int64_t>(share.helper) * kPack, step = static_cast<int64_t>(share.helpers) * kPack;
  const int64_t end = share.inside ? params.axis : 0;

  Acc sum(0);
#pragma unroll 1
  for (int64_t a = start; a < end; a += step) {
    const Pack<T, kPack> v = load_pack<kPack>(y + a * params.inner), g = load_pack<kPack>(dy + a * params.inner);
#pragma unroll
    for (int e = 0; e < kPack; ++e) sum += to_accumulate(v.value[e]) * to_accumulate(g.value[e]);
  }
  for (int half = share.helpers / 2; half > 0; half /= 2) {
    sums[thread] = sum;
    __syncthreads();
    if (share.helper < half) sum += sums[share.slot(params, share.helper + half)];
    __syncthreads();
  }
  if (share.helper == 0) sums[thread] = sum;
  __syncthreads();
  sum = sums[share.slot(params, 0)];
#pragma unroll 1
  for (int64_t a = start; a < end; a += step) {
    const Pack<T, kPack> v = load_pack<kPack>(y + a * params.inner), g = load_pack<kPack>(dy + a * params.inner);
    Pack<T, kPack> out;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      out.value[e] = from_accumulate<T>(to_accumulate(v.value[e]) * (to_accumulate(g.value[e]) - sum));
    }
    store_pack<kPack>(dx + a * params.inner, out);
  }
}

constexpr int64_t kSoftmaxLongRow = 1024;  // elements: from here on a row takes a block, not a warp

inline SoftmaxParams softmax_params(const SoftmaxCall& call, LaunchConfig& config) {
  SoftmaxParams params;
  params.x = call.x, params.dy = call.dy, params.y = call.y;
  params.columns = call.outer * call.inner, params.axis = call.axis, params.inner = call.inner;
  params.inner_divider = Divider(call.inner, params.columns);
  params.columns_in_lanes = call.inner > 1;
  if (call.inner == 1) {
    params.block_columns = call.axis > kSoftmaxLongRow ? 1 : kFlatThreads / 32;
  } else {
    // Columns for whole sectors, threads for the axis.
    params.block_columns = 32;
    while (params.block_columns < kFlatThreads && kFlatThreads / params.block_columns > call.axis) {
      params.block_columns *= 2;
    }
  }
  const int64_t blocks = (params.columns + params.block_columns - 1) / params.block_columns;
  if (blocks > 0x7fffffff) {
    throw NotServed("softmax: no algorithm serves this problem:\n  online: " + std::to_string(params.columns) +
                    " columns are more than one grid holds");
  }
  config.block = dim3(kFlatThreads);
  config.grid = dim3(static_cast<unsigned>(blocks));
  return params;
}

}  // namespace fastconv::cuda
