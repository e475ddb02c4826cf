// The algorithms of upsample_conv2d (nearest, whole factors) on the CPU, in order of preference.
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {

namespace {

Reasons unless_few_phases(const Conv2dCall& call) {
  if (kernels().upsample_phase_packed_bytes(call.problem, call.dtype) > 0) return {};
  return {"expected scale_factor to make few phases, but got " + std::to_string(call.problem.scale_h) + "x" +
          std::to_string(call.problem.scale_w)};
}

}  // namespace

const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {
      {"phase", "filters summed over the taps that meet in one stored pixel, one small convolution per output phase",
       [](const Conv2dCall& call) { return unless_few_phases(call); },
       // Without upsampling there is one phase, and nothing to sum.
       [](const Conv2dCall& call) { return call.problem.scale_h > 1 || call.problem.scale_w > 1; },
       [](const Conv2dCall& call, const CallContext& context) { kernels().upsample_conv2d_phase(call, context); }},
      {"gather", "the products of the unfused pair, input rows repeated as they are read",
       [](const Conv2dCall&) { return Reasons{}; }, nullptr,
       [](const Conv2dCall& call, const CallContext& context) { kernels().upsample_conv2d_gather(call, context); }},
  };
  return table;
}

}  // namespace fastconv::cpu
