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

}  // namespace

const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms() {
  static const AlgorithmTable<Conv2dInputGradCall> table = {
      {"depthwise", "one filter per channel: channels or columns in the lanes",
       [](const Conv2dInputGradCall& call) { return unless_depthwise(call.problem); }, nullptr,
       [](const Conv2dInputGradCall& call, const CallContext& context) {
         kernels().conv2d_input_grad_depthwise(call, context);
       }},
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
