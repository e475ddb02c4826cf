// Depthwise convolution (groups == C), forward: channel lanes where y's channels are dense (NHWC) and, transposed in
// the cache, for small NCHW planes; column lanes everywhere else. Filters of 3x3 and 5x5 with stride 1 or 2 have
// register tiles of their own; any other filter, stride, dilation, padding and channel multiplier takes the general
// ones.
#pragma once

#include "depthwise_small_planes.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The depthwise format of conv2d_pack: [K / 16][R * S][16] float32 ([K / 8][R * S][8] float64), zeros behind K. It is
// the `depthwise` algorithm's own: any other algorithm must ignore packed_w where depthwise_format().
inline bool depthwise_format(const ConvProblem& c, DType dtype) { return one_channel_each(c, dtype, kVectorBytes); }

inline size_t depthwise_packed_bytes(const ConvProblem& problem, DType dtype) {
  const int64_t element = static_cast<int64_t>(dtype_size(accumulate_dtype(dtype))), block = 64 / element;
  return static_cast<size_t>(ceil_div(problem.K, block) * problem.R * problem.S * 64);
}

inline void depthwise_pack(const ConvProblem& problem, const TensorView& w, void* packed) {
  if (w.dtype == DType::kFloat64) {
    depthwise::pack(w, problem.K, 1, false, static_cast<double*>(packed));
  } else {
    depthwise::pack(w, problem.K, 1, false, static_cast<float*>(packed));
  }
}

namespace depthwise {

template <class Acc>
void run_plan(const Plan<Acc>& plan, const EpilogueArgs& args, const CallContext& ctx) {
  if (plan.N * plan.K * plan.P * plan.Q == 0) return;
  // A few filters over one channel leave most lanes of channels empty.
  const bool one_plane = plan.K == plan.spread && plan.K < Vec<Acc>::kLanes;
  // Large filters are worth bringing columns into the lanes for, whatever the layout: 31x31 on 64 channels of 56x56
  // NHWC took 12 times as long with channels in them.
  const bool large = wants_filter(plan) && plan.taps() >= 81;
  const bool channels_dense = plan.y.stride[1] == 1 && plan.K > 1 && !one_plane && !large;
  if (channels_dense) return run_channels(plan, args, ctx);
  suits_transposition(plan) && !large ? run_small_planes(plan, args, ctx) : run_planes(plan, args, ctx);
}

template <class Acc>
void fprop(const Conv2dCall& call, const CallContext& ctx) {
  const ConvProblem& c = call.problem;
  Plan<Acc> plan;
  plan.N = c.N, plan.H = c.H, plan.W = c.W;
  plan.K = c.K, plan.P = c.P, plan.Q = c.Q;
  plan.R = c.R, plan.S = c.S;
  plan.stride_h = c.stride_h, plan.stride_w = c.stride_w;
  plan.dilation_h = c.dilation_h, plan.dilation_w = c.dilation_w;
  plan.pad_top = c.pad_top, plan.pad_left = c.pad_left;
  plan.spread = c.filters_per_group();
  plan.x = call.x;
  plan.y = call.y;
  const void* packed = depthwise_format(c, call.dtype) ? call.packed_w : nullptr;
  if (!packed) {
    void* fresh = ctx.workspace->allocate(depthwise_packed_bytes(c, call.dtype));
    depthwise_pack(c, call.w, fresh);
    packed = fresh;
  }
  plan.weights = static_cast<const Acc*>(packed);
  run_plan(plan, call.epilogue, ctx);
}

}  // namespace depthwise

inline void conv2d_depthwise(const Conv2dCall& call, const CallContext& ctx) {
  const ConvProblem& c = call.problem;
  if (c.N * c.K * c.P * c.Q == 0) return;
  call.dtype == DType::kFloat64 ? depthwise::fprop<double>(call, ctx) : depthwise::fprop<float>(call, ctx);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
