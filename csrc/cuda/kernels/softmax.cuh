// Softmax over the middle axis of (outer, axis, inner), and its gradient dx = y * (dy - sum(dy * y));
// softmax_columns.cuh says who works on what. Every thread keeps its elements in registers, loaded all at once, so that
// each is read once: a block keeps rows of up to 32768 elements of 16 bits or 16384 floats, and strided columns of 512
// to 1024; for the gradient, which keeps two tensors, half of that. Longer ones: softmax_long.cuh.
#pragma once

#include "softmax_columns.cuh"

namespace fastconv::cuda {

// exp(a - b), with nothing left of a part that has no element yet.
template <class Acc>
__device__ __forceinline__ Acc softmax_scale(Acc a, Acc b) {
  return a == -static_cast<Acc>(INFINITY) ? Acc(0) : vexp(a - b);
}

struct SoftmaxMax {
  template <class Acc>
  __device__ __forceinline__ Acc operator()(Acc a, Acc b) const {
    return max_nan(a, b);
  }
};
struct SoftmaxSum {
  template <class Acc>
  __device__ __forceinline__ Acc operator()(Acc a, Acc b) const {
    return a + b;
  }
};

template <class Config>
__global__ void __launch_bounds__(kSoftmaxThreads, 1) softmax_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kColumns = Config::kColumns, kKept = Config::kKept;
  __shared__ Acc shared[kSoftmaxWarps][32];
  const SoftmaxShare<Config> share(params);
  Pack<T, kPack> v[kKept];
  share.load(v, static_cast<const T*>(params.x), share.start, from_accumulate<T>(-static_cast<Acc>(INFINITY)));

  // A NaN need not reach every thread's maximum: it reaches the sum, and so every result.
  Acc top[kColumns], sum[kColumns], value[kKept][kPack];
#pragma unroll
  for (int e = 0; e < kColumns; ++e) top[e] = -static_cast<Acc>(INFINITY), sum[e] = Acc(0);
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      value[k][e] = to_accumulate(v[k].value[e]);
      top[e % kColumns] = max_nan(value[k][e], top[e % kColumns]);
    }
  }
  share.reduce(params, top, shared, SoftmaxMax());
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      value[k][e] = softmax_scale(value[k][e], top[e % kColumns]);
      sum[e % kColumns] += value[k][e];
    }
  }
  share.reduce(params, sum, shared, SoftmaxSum());

  // A column of -inf has sum 0 and gives 0 * inf = NaN, as torch's does.
  T* y = static_cast<T*>(params.y) + share.first + share.start * share.axis_stride;
  const int64_t ahead = share.step * share.axis_stride;
  const int left = share.left(share.start);
#pragma unroll
  for (int e = 0; e < kColumns; ++e) sum[e] = Acc(1) / sum[e];
#pragma unroll
  for (int k = 0; k < kKept; ++k, y += ahead) {
    if (k * share.step >= left) break;
    Pack<T, kPack> out;
#pragma unroll
    for (int e = 0; e < kPack; ++e) out.value[e] = from_accumulate<T>(value[k][e] * sum[e % kColumns]);
    store_pack<kPack>(y, out);
  }
}

template <class Config>
__global__ void __launch_bounds__(kSoftmaxThreads, 1) softmax_backward_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kColumns = Config::kColumns, kKept = Config::kKept;
  __shared__ Acc shared[kSoftmaxWarps][32];
  const SoftmaxShare<Config> share(params);
  Pack<T, kPack> v[kKept], g[kKept];
  share.load(v, static_cast<const T*>(params.x), share.start, from_accumulate<T>(Acc(0)));
  share.load(g, static_cast<const T*>(params.dy), share.start, from_accumulate<T>(Acc(0)));
  Acc sum[kColumns] = {};
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) sum[e % kColumns] += to_accumulate(v[k].value[e]) * to_accumulate(g[k].value[e]);
  }
  share.reduce(params, sum, shared, SoftmaxSum());
  T* dx = static_cast<T*>(params.y) + share.first + share.start * share.axis_stride;
  const int64_t ahead = share.step * share.axis_stride;
  const int left = share.left(share.start);
#pragma unroll
  for (int k = 0; k < kKept; ++k, dx += ahead) {
    if (k * share.step >= left) break;
    Pack<T, kPack> out;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      out.value[e] =
          from_accumulate<T>(to_accumulate(v[k].value[e]) * (to_accumulate(g[k].value[e]) - sum[e % kColumns]));
    }
    store_pack<kPack>(dx, out);
  }
}

}  // namespace fastconv::cuda
