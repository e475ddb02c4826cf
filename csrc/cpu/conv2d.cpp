// The algorithms of conv2d on the CPU. Those that may be taken unasked compete by predicted cost; at a tie the first
// wins.
#include "algorithms.h"
#include "cost_model.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

std::string pair_text(int64_t h, int64_t w) { return "(" + std::to_string(h) + ", " + std::to_string(w) + ")"; }

Reasons unless_depthwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  if (p.is_depthwise()) return {};
  return {"expected groups to equal the input channels and to be more than 1, but got groups = " +
          std::to_string(p.groups) + " and " + std::to_string(p.C) + " channels"};
}

Reasons unless_pointwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons;
  if (p.R != 1 || p.S != 1) reasons.push_back("expected a 1x1 filter, but got " + pair_text(p.R, p.S));
  if (p.stride_h != 1 || p.stride_w != 1) {
    reasons.push_back("expected stride 1, but got " + pair_text(p.stride_h, p.stride_w));
  }
  if (p.has_padding()) {
    reasons.push_back("expected no padding, but got top, bottom " + pair_text(p.pad_top, p.pad_bottom) +
                      " and left, right " + pair_text(p.pad_left, p.pad_right));
  }
  return reasons;
}

Reasons none(const Conv2dCall&) { return {}; }
bool never(const Conv2dCall&) { return false; }

}  // namespace

const AlgorithmTable<Conv2dCall>& conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {
      {"depthwise", "one filter per channel: channels or columns in the lanes", unless_depthwise, nullptr,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_depthwise(call, context); },
       cost_of_depthwise},
      {"pointwise", "1x1 filter: a GEMM over the pixels of x where they lie", unless_pointwise, nullptr,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_pointwise(call, context); },
       cost_of_engine},
      {"implicit_gemm", "register tiles of pixels x filters, taps as offsets into input rows, no im2col matrix", none,
       nullptr,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_implicit_gemm(call, context); },
       cost_of_engine},
      {"im2col", "the matrix of all windows in memory, then a GEMM", none, never,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_im2col(call, context); },
       cost_of_im2col},
      {"direct", "the definition, one vector of filters at a time", none, never,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_direct(call, context); },
       cost_of_direct},
  };
  return table;
}

}  // namespace fastconv::cpu
