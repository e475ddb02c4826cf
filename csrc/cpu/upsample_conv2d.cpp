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

bool fills_tiles(const Conv2dCall& call) { return cpu::fills_tiles(call.problem); }

}  // namespace

// Whichever format pack_upsample_weight expected to be read: a kernel that reads another packs its own.
const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {
      {"amx", "the products of the unfused pair, bfloat16 in the processor's matrix tiles, float32 sums",
       [](const Conv2dCall& call) { return unless_bf16(call, kernels().amx); }, fills_tiles,
       [](const Conv2dCall& call, const CallContext& context) { kernels().amx->conv2d(call, context); }},
      {"avx512_bf16", "the products of the unfused pair, bfloat16 by dot products of pairs, float32 sums",
       [](const Conv2dCall& call) { return unless_bf16(call, kernels().avx512_bf16); },
       [](const Conv2dCall& call) { return fills_tiles(call) && fast_bf16_pairs(); },
       [](const Conv2dCall& call, const CallContext& context) { kernels().avx512_bf16->conv2d(call, context); }},
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
