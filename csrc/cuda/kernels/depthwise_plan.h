// Depthwise convolution and its input gradient as one computation: filters slide over a *virtual* input whose rows and
// columns lie `insert` apart, with zeros between them, which is how the gradient of a strided convolution reads dy.
//
//   out[n, k, p, q] = epilogue(sum over m, r, s of
//                              virtual[n, k / spread * collect + m, h, w] * filter[k * collect + m, r, s])
//       h = p * stride_h - pad_h + r * dilation_h
//       w = q * stride_w - pad_w + s * dilation_w
//
//   forward         in = x, insert 1, spread = channel multiplier, collect 1
//   input gradient  in = dy, insert = the convolution's stride, stride 1, filters turned by 180 degrees,
//                   collect = channel multiplier
#pragma once

#include <string>

#include "../phases.h"

namespace fastconv::cuda {

struct DepthwiseAxis {
  int in = 0, out = 0, filter = 0;
  int insert = 1, stride = 1, dilation = 1;
  int pad = 0;  // virtual rows in front of the first; may be negative
};

struct DepthwisePlan {
  int64_t N = 0;
  int channels = 0;  // of out
  DepthwiseAxis h, w;
  int spread = 1, collect = 1;
  DType dtype = DType::kFloat32;
  TensorView in, out;
  TensorView weights;               // as the caller has them: what may be read
  const void* first_tap = nullptr;  // of filter 0; strides in elements, negative when turned
  int64_t w_stride_filter = 0, w_stride_r = 0, w_stride_s = 0;
  EpilogueArgs epilogue;

  int filters() const { return channels * collect; }
  int64_t taps() const { return static_cast<int64_t>(h.filter) * w.filter; }
  bool empty() const { return N == 0 || channels == 0 || h.out == 0 || w.out == 0; }
  // Along both axes a filter of extent `filter`, and so on.
  bool is(int filter, int insert, int stride) const {
    const auto same = [&](const DepthwiseAxis& a) {
      return a.filter == filter && a.insert == insert && a.stride == stride && a.dilation == 1;
    };
    return same(h) && same(w);
  }
};

// Whether `count` channels of every pixel may be moved at once.
inline bool channels_in_packs(const TensorView& t, int count) {
  bool packs = t.stride[1] == 1 && t.size[1] % count == 0 &&
               reinterpret_cast<uintptr_t>(t.data) % (static_cast<size_t>(count) * dtype_size(t.dtype)) == 0;
  for (int axis : {0, 2, 3}) packs = packs && (t.size[axis] == 1 || t.stride[axis] % count == 0);
  return packs;
}

// Serves every plan; windows of plans without rows of zeros by kernels of their own (conv2d_depthwise.cu).
void run_depthwise_plan(const DepthwisePlan& plan, void* stream);

inline DepthwisePlan forward_plan(const Conv2dCall& call) {
  const ConvProblem& c = call.problem;
  const auto as_int = [](int64_t v) { return static_cast<int>(v); };
  DepthwisePlan plan;
  plan.N = c.N, plan.channels = as_int(c.K), plan.spread = as_int(c.filters_per_group());
  plan.h = {as_int(c.H), as_int(c.P), as_int(c.R), 1, as_int(c.stride_h), as_int(c.dilation_h), as_int(c.pad_top)};
  plan.w = {as_int(c.W), as_int(c.Q), as_int(c.S), 1, as_int(c.stride_w), as_int(c.dilation_w), as_int(c.pad_left)};
  plan.dtype = call.dtype, plan.in = call.x, plan.out = call.y, plan.epilogue = call.epilogue;
  plan.weights = call.w, plan.first_tap = call.w.data;
  plan.w_stride_filter = call.w.stride[0], plan.w_stride_r = call.w.stride[2], plan.w_stride_s = call.w.stride[3];
  return plan;
}

inline DepthwisePlan input_grad_plan(const Conv2dInputGradCall& call) {
  const ConvProblem& c = call.problem;
  const auto as_int = [](int64_t v) { return static_cast<int>(v); };
  DepthwisePlan plan;
  plan.N = c.N, plan.channels = as_int(c.C), plan.collect = as_int(c.filters_per_group());
  plan.h = {as_int(c.P),
            as_int(c.H),
            as_int(c.R),
            as_int(c.stride_h),
            1,
            as_int(c.dilation_h),
            as_int((c.R - 1) * c.dilation_h - c.pad_top)};
  plan.w = {as_int(c.Q),
            as_int(c.W),
            as_int(c.S),
            as_int(c.stride_w),
            1,
            as_int(c.dilation_w),
            as_int((c.S - 1) * c.dilation_w - c.pad_left)};
  plan.dtype = call.dtype, plan.in = call.dy, plan.out = call.dx, plan.epilogue = call.epilogue;
  plan.weights = call.w;
  plan.first_tap =
      call.w.as<const char>() + call.w.offset(0, 0, c.R - 1, c.S - 1) * static_cast<int64_t>(dtype_size(call.dtype));
  plan.w_stride_filter = call.w.stride[0], plan.w_stride_r = -call.w.stride[2], plan.w_stride_s = -call.w.stride[3];
  return plan;
}

// What every depthwise kernel asks of a problem.
inline Reasons depthwise_reasons(const ConvProblem& c) {
  Reasons reasons;
  if (!c.is_depthwise()) {
    reasons.push_back("needs groups == channels, but groups is " + std::to_string(c.groups) + " and channels " +
                      std::to_string(c.C));
  }
  if (c.scale_h != 1 || c.scale_w != 1) {
    reasons.push_back("upsamples its input by " + std::to_string(c.scale_h) + "x" + std::to_string(c.scale_w));
  }
  for (const std::string& reason : phase_extent_reasons(c)) reasons.push_back(reason);
  constexpr int64_t kMaxStep = 0x20000000;  // coordinates are computed in int
  if (c.stride_h > kMaxStep || c.stride_w > kMaxStep) {
    reasons.push_back("stride " + std::to_string(c.stride_h) + "x" + std::to_string(c.stride_w) + " is above 2^29");
  }
  // No kernel has more blocks than this: 4 channels and 32 columns, 32 and 4, or 128 columns, each.
  const auto blocks = [&](int64_t channels, int64_t columns) {
    const double n = static_cast<double>(c.N), k = static_cast<double>(channels), q = static_cast<double>(columns);
    return n * ((k / 32 + 1) * (q / 4 + 1) + (k / 4 + 1) * (q / 32 + 1) + k * (q / 128 + 1));
  };
  if (blocks(c.K, c.Q) > 0x7fffffff || blocks(c.C, c.W) > 0x7fffffff) {
    reasons.push_back("N = " + std::to_string(c.N) + ", C = " + std::to_string(c.C) + ", K = " + std::to_string(c.K) +
                      " and W = " + std::to_string(c.W) + " are more blocks than one grid holds");
  }
  return reasons;
}

}  // namespace fastconv::cuda
