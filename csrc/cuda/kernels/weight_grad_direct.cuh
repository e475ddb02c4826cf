// dw from the definition: a warp makes one element at a time, its lanes stride over the pixels (n, p, q) and add what
// they found in a tree, always the same. All in 64 bits and without workspace: what the matrix product does not count
// ends here.
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
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWarps = kWeightGradDirectThreads / 32;
  const int64_t pixels = problem.N * problem.P * problem.Q;
  const int64_t elements = problem.K * problem.gemm_k();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  for (int64_t element = first; element < elements; element += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t s = element % problem.S, r = element / problem.S % problem.R;
    const int64_t kc = element / (problem.S * problem.R);
    const int64_t c = kc % problem.channels_per_group(), k = kc / problem.channels_per_group();
    const int64_t channel = k / problem.filters_per_group() * problem.channels_per_group() + c;
    Acc acc = 0;
    for (int64_t pixel = lane; pixel < pixels; pixel += 32) {
      const int64_t q = pixel % problem.Q, p = pixel / problem.Q % problem.P, n = pixel / (problem.Q * problem.P);
      const int64_t h = p * problem.stride_h - problem.pad_top + r * problem.dilation_h;
      const int64_t w = q * problem.stride_w - problem.pad_left + s * problem.dilation_w;
      if (h < 0 || h >= problem.H || w < 0 || w >= problem.W) continue;
      acc += to_accumulate(dy.as<const T>()[dy.offset(n, k, p, q)]) *
             to_accumulate(x.as<const T>()[x.offset(n, channel, h, w)]);
    }
#pragma unroll
    for (int half = 16; half > 0; half /= 2) acc += __shfl_xor_sync(0xffffffffu, acc, half);
    if (lane == 0) dw.as<T>()[dw.offset(k, c, r, s)] = from_accumulate<T>(acc);
  }
}

template <class T>
void launch_weight_grad_direct(const Conv2dWeightGradCall& call, void* stream) {
  const ConvProblem& p = call.problem;
  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(kWeightGradDirectThreads);
  config.grid = dim3(static_cast<unsigned>(
      std::min<int64_t>((p.K * p.gemm_k() * 32 + kWeightGradDirectThreads - 1) / kWeightGradDirectThreads, 1 << 20)));
  config.footprint.reads("dy", call.dy).reads("x", call.x).writes("dw", call.dw);
  launch("weight_grad_direct", config, weight_grad_direct_kernel<T>, p, call.dy, call.x, call.dw);
}

}  // namespace fastconv::cuda
