// dx = epilogue(conv2d's input gradient) from the definition, in gather form: any stride, padding, dilation, groups and
// memory format. A thread makes one element of dx: of the filter's rows and columns it takes those that a whole number
// of strides brings to its own place,
//
//   p = (h + pad_top - r * dilation_h) / stride_h    where that is whole and within 0 .. P - 1
//
// and sums dy * w over them and the filters of its group. All in 64 bits: what the phases do not serve ends here.
#pragma once

#include <algorithm>

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"

namespace fastconv::cuda {

struct InputGradDirectParams {
  ConvProblem problem;
  TensorView dy, w, dx;
  bool channels_innermost;  // consecutive threads make consecutive channels of dx (else columns)
};

constexpr int kInputGradDirectThreads = 128;

template <class T, class Epilogue>
__global__ void __launch_bounds__(kInputGradDirectThreads)
    input_grad_direct_kernel(const InputGradDirectParams params, const Epilogue epilogue) {
  using Acc = accumulate_t<T>;
  const ConvProblem& problem = params.problem;
  const int64_t filters = problem.filters_per_group(), channels = problem.channels_per_group();
  const int64_t count = problem.N * problem.C * problem.H * problem.W;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    int64_t rest = i, c = 0;
    if (params.channels_innermost) c = rest % problem.C, rest /= problem.C;
    const int64_t w = rest % problem.W;
    rest /= problem.W;
    const int64_t h = rest % problem.H;
    rest /= problem.H;
    if (!params.channels_innermost) c = rest % problem.C, rest /= problem.C;
    const int64_t n = rest;

    const int64_t group = c / channels;
    const T* dy = params.dy.as<const T>() + params.dy.offset(n, group * filters, 0, 0);
    const T* weights = params.w.as<const T>() + params.w.offset(group * filters, c % channels, 0, 0);
    Acc acc = 0;
    for (int64_t r = 0; r < problem.R; ++r) {
      const int64_t shifted_h = h + problem.pad_top - r * problem.dilation_h;
      if (shifted_h < 0 || shifted_h % problem.stride_h != 0 || shifted_h / problem.stride_h >= problem.P) continue;
      for (int64_t s = 0; s < problem.S; ++s) {
        const int64_t shifted_w = w + problem.pad_left - s * problem.dilation_w;
        if (shifted_w < 0 || shifted_w % problem.stride_w != 0 || shifted_w / problem.stride_w >= problem.Q) continue;
        const T* dy_pixel = dy + params.dy.offset(0, 0, shifted_h / problem.stride_h, shifted_w / problem.stride_w);
        const T* tap = weights + params.w.offset(0, 0, r, s);
        for (int64_t k = 0; k < filters; ++k) {
          acc += to_accumulate(dy_pixel[k * params.dy.stride[1]]) * to_accumulate(tap[k * params.w.stride[0]]);
        }
      }
    }
    params.dx.as<T>()[params.dx.offset(n, c, h, w)] = epilogue.finish(epilogue.channel(c), acc, n, c, h, w);
  }
}

template <class T, class Epilogue>
void launch_input_grad_direct(const Conv2dInputGradCall& call, const Epilogue& epilogue, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const InputGradDirectParams params{p, call.dy, call.w, call.dx, call.dx.stride[1] == 1 && call.dx.stride[3] != 1};
  LaunchConfig config;
  config.stream = context.stream;
  config.block = dim3(kInputGradDirectThreads);
  const int64_t blocks = (p.N * p.C * p.H * p.W + kInputGradDirectThreads - 1) / kInputGradDirectThreads;
  config.grid = dim3(static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 20)));
  config.footprint.reads("dy", call.dy).reads("w", call.w).writes("dx", call.dx).reads(call.epilogue, call.dtype, p.C);
  launch("input_grad_direct", config, input_grad_direct_kernel<T, Epilogue>, params, epilogue);
}

}  // namespace fastconv::cuda
