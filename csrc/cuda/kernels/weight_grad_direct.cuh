// dw from the definition: a block makes one element at a time, its threads stride over the pixels (n, p, q) and add
// what they found in a tree, always the same. All in 64 bits and without workspace: what the matrix product does not
// count ends here.
#pragma once

#include <algorithm>

#include "../../common/calls.h"
#include "../primitives/launch.h"

namespace fastconv::cuda {

constexpr int kWeightGradDirectThreads = 128;

template <class T>
__global__ void __launch_bounds__(kWeightGradDirectThreads)
    weight_grad_direct_kernel(const ConvProblem problem, const TensorView dy, const TensorView x, const TensorView dw) {
  using Acc = accumulate_t<T>;
  __shared__ Acc sums[kWeightGradDirectThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t pixels = problem.N * problem.P * problem.Q;
  const int64_t elements = problem.K * problem.gemm_k();
  for (int64_t element = blockIdx.x; element < elements; element += gridDim.x) {
    const int64_t s = element % problem.S, r = element / problem.S % problem.R;
    const int64_t kc = element / (problem.S * problem.R);
    const int64_t c = kc % problem.channels_per_group(), k = kc / problem.channels_per_group();
    const int64_t channel = k / problem.filters_per_group() * problem.channels_per_group() + c;
    Acc acc = 0;
    for (int64_t pixel = thread; pixel < pixels; pixel += kWeightGradDirectThreads) {
      const int64_t q = pixel % problem.Q, p = pixel / problem.Q % problem.P, n = pixel / (problem.Q * problem.P);
      const int64_t h = p * problem.stride_h - problem.pad_top + r * problem.dilation_h;
      const int64_t w = q * problem.stride_w - problem.pad_left + s * problem.dilation_w;
      if (h < 0 || h >= problem.H || w < 0 || w >= problem.W) continue;
      acc += to_accumulate(dy.as<const T>()[dy.offset(n, k, p, q)]) *
             to_accumulate(x.as<const T>()[x.offset(n, channel, h, w)]);
    }
    sums[thread] = acc;
    for (int half = kWeightGradDirectThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half) sums[thread] += sums[thread + half];
    }
    if (thread == 0) dw.as<T>()[dw.offset(k, c, r, s)] = from_accumulate<T>(sums[0]);
    __syncthreads();
  }
}

template <class T>
void launch_weight_grad_direct(const Conv2dWeightGradCall& call, void* stream) {
  const ConvProblem& p = call.problem;
  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(kWeightGradDirectThreads);
  config.grid = dim3(static_cast<unsigned>(std::min<int64_t>(p.K * p.gemm_k(), 1 << 20)));
  config.footprint.reads("dy", call.dy).reads("x", call.x).writes("dw", call.dw);
  launch("weight_grad_direct", config, weight_grad_direct_kernel<T>, p, call.dy, call.x, call.dw);
}

}  // namespace fastconv::cuda
