// The gradients of a bias, sum[c] = sum over n, h, w of dy, and of PReLU's parameter, the sum of dy * x over the
// elements with x <= 0 that share it: all of them, a channel's, or those of one position (c, h, w) in every sample. The
// first three are terms of channel_reduce.cuh; positions are a kernel of their own, a thread each.
#pragma once

#include "../../common/calls.h"
#include "channel_reduce.cuh"

namespace fastconv::cuda {

// dy * x where x <= 0; NaN stays NaN.
template <class Acc>
__device__ __forceinline__ Acc prelu_param_term(Acc x, Acc dy) {
  return x > Acc(0) ? Acc(0) : x * dy;
}

struct NoChannel {};

struct ChannelSumTerm {
  static constexpr int kInputs = 1;
  template <class Acc>
  using State = SumState<Acc, 1>;
  using Channel = NoChannel;
  __device__ Channel channel(int64_t) const { return {}; }
  template <class Config, class States, class Channels, class Values>
  __device__ __forceinline__ void add(States& state, const Channels&, const Values& v) const {
#pragma unroll
    for (int e = 0; e < Config::kPack; ++e) state[Config::kAlongPixels ? 0 : e].value[0] += v[0][e];
  }
};

struct PreluParamTerm {
  static constexpr int kInputs = 2;  // x, dy
  template <class Acc>
  using State = SumState<Acc, 1>;
  using Channel = NoChannel;
  __device__ Channel channel(int64_t) const { return {}; }
  template <class Config, class States, class Channels, class Values>
  __device__ __forceinline__ void add(States& state, const Channels&, const Values& v) const {
#pragma unroll
    for (int e = 0; e < Config::kPack; ++e) {
      state[Config::kAlongPixels ? 0 : e].value[0] += prelu_param_term(v[0][e], v[1][e]);
    }
  }
};

template <class T>
struct StoreSum {
  T* sum;
  __device__ void operator()(int64_t c, const SumState<double, 1>& state) const {
    sum[c] = from_accumulate<T>(static_cast<accumulate_t<T>>(state.value[0]));
  }
};

enum PreluPositionOperand { kPositionParam, kPositionX, kPositionDy, kPositionOperands };

template <class T>
struct PreluPositionParams {
  AxisIndex<kPositionOperands> index;  // of one sample
  int64_t samples, x_stride, dy_stride;
  const T* x;
  const T* dy;
  T* dparam;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) prelu_position_kernel(const PreluPositionParams<T> params) {
  using Acc = accumulate_t<T>;
  constexpr int64_t kRun = 64;  // samples added up before float64 takes over
  const int64_t item = flat_thread();
  if (item >= params.index.count) return;
  int64_t offset[kPositionOperands];
  params.index.locate(item, offset);
  const T *x = params.x + offset[kPositionX], *dy = params.dy + offset[kPositionDy];
  double sum = 0;
  for (int64_t first = 0; first < params.samples; first += kRun) {
    const int64_t end = min(params.samples, first + kRun);
    Acc part(0);
    for (int64_t n = first; n < end; ++n) {
      part += prelu_param_term(to_accumulate(x[n * params.x_stride]), to_accumulate(dy[n * params.dy_stride]));
    }
    sum += part;
  }
  params.dparam[offset[kPositionParam]] = from_accumulate<T>(static_cast<Acc>(sum));
}

template <class T>
void launch_prelu_position(const PreluParamGradCall& call, const LaunchConfig& base) {
  MergedAxes<kPositionOperands> merged;
  for (int d = 1; d < 4; ++d) {
    merged.add({call.x.size[d], {call.dparam.stride[d], call.x.stride[d], call.dy.stride[d]}});
  }
  merged.merge();
  PreluPositionParams<T> params;
  params.index = AxisIndex<kPositionOperands>(merged, 1);
  params.samples = call.x.size[0], params.x_stride = call.x.stride[0], params.dy_stride = call.dy.stride[0];
  params.x = call.x.template as<const T>(), params.dy = call.dy.template as<const T>();
  params.dparam = call.dparam.template as<T>();
  launch("prelu_param_grad", flat_launch(base, params.index.count), prelu_position_kernel<T>, params);
}

// The gradients where there is nothing to sum.
template <class T>
__global__ void __launch_bounds__(kFlatThreads) zero_sums_kernel(T* sum, int64_t count) {
  const int64_t i = flat_thread();
  if (i < count) sum[i] = from_accumulate<T>(accumulate_t<T>(0));
}

}  // namespace fastconv::cuda
