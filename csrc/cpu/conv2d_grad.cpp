// The algorithms of convolution's gradients on the CPU.
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

Reasons unless_depthwise(const ConvProblem& problem) {
  if (problem.is_depthwise()) return {};
  return {"expected groups to equal the input channels and to be more than 1, but got groups = " +
          std::to_string(problem.groups) + " and " + std::to_string(problem.C) + " channels"};
}

Reasons unless_winograd(const Conv2dInputGradCall& call) {
  const ConvProblem& p = call.problem;
  const auto pair = [](int64_t h, int64_t w) { return "(" + std::to_string(h) + ", " + std::to_string(w) + ")"; };
  Reasons reasons;
  if (p.R != 3 || p.S != 3) reasons.push_back("expected a 3x3 filter, but got " + pair(p.R, p.S));
  if (p.stride_h != 1 || p.stride_w != 1) {
    reasons.push_back("expected stride 1, but got " + pair(p.stride_h, p.stride_w));
  }
  if (p.dilation_h != 1 || p.dilation_w != 1) {
    reasons.push_back("expected dilation 1, but got " + pair(p.dilation_h, p.dilation_w));
  }
  if (p.groups != 1) reasons.push_back("expected one group, but got " + std::to_string(p.groups));
  if (p.K == 0) reasons.push_back("there are no filters");
  if (call.dtype == DType::kFloat64) reasons.push_back("sums in float32, and the tensors are float64");
  if (call.packed_w) reasons.push_back("the packed weights are not transformed for it");
  return reasons;
}

bool winograd_permitted(const Conv2dInputGradCall& call) { return call.dtype == DType::kFloat32 && winograd_allowed(); }

// The filters are transformed at every call; with few channels on either side the transforms of tiles weigh too much.
bool winograd_preferred(const Conv2dInputGradCall& call) {
  const ConvProblem& p = call.problem;
  return p.R == 3 && p.S == 3 && p.C >= 32 && p.K >= 32 && winograd_permitted(call) &&
         p.H * p.W >= kWinogradUnpackedPixels && p.C * p.K * p.H * p.W * 9 >= kWinogradWork;
}

}  // namespace

const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms() {
  static const AlgorithmTable<Conv2dInputGradCall> table = {
      {"depthwise", "one filter per channel: channels or columns in the lanes",
       [](const Conv2dInputGradCall& call) { return unless_depthwise(call.problem); }, nullptr,
       [](const Conv2dInputGradCall& call, const CallContext& context) {
         kernels().conv2d_input_grad_depthwise(call, context);
       }},
      {"winograd", "3x3 at stride 1 by minimal filtering F(4x4, 3x3): 36 products for 16 outputs; rearranged sums",
       unless_winograd, winograd_preferred,
       [](const Conv2dInputGradCall& call, const CallContext& context) {
         kernels().conv2d_input_grad_winograd(call, context);
       },
       nullptr, nullptr, winograd_permitted},
      {"phases", "one convolution of unit stride over dy for each phase of the stride, in the implicit GEMM engine",
       [](const Conv2dInputGradCall&) { return Reasons{}; }, nullptr,
       [](const Conv2dInputGradCall& call, const CallContext& context) { kernels().conv2d_input_grad(call, context); }},
  };
  return table;
}

const AlgorithmTable<Conv2dWeightGradCall>& conv2d_weight_grad_algorithms() {
  static const AlgorithmTable<Conv2dWeightGradCall> table = {
      {"depthwise", "one filter per channel: channels or columns in the lanes",
       [](const Conv2dWeightGradCall& call) { return unless_depthwise(call.problem); }, nullptr,
       [](const Conv2dWeightGradCall& call, const CallContext& context) {
         kernels().conv2d_weight_grad_depthwise(call, context);
       }},
      {"pixel_reduction", "register tiles of filters x channels, reduced over packed blocks of pixels in a fixed order",
       [](const Conv2dWeightGradCall&) { return Reasons{}; }, nullptr,
       [](const Conv2dWeightGradCall& call, const CallContext& context) {
         kernels().conv2d_weight_grad(call, context);
       }},
  };
  return table;
}

}  // namespace fastconv::cpu
