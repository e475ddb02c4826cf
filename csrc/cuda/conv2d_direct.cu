// The row "direct" of conv2d and upsample_conv2d.
#include "algorithms.h"
#include "kernels/conv2d_direct.cuh"
#include "phases.h"

namespace fastconv::cuda {
namespace {

Reasons direct_reasons(const Conv2dCall& call) {
  const ConvProblem& c = call.problem;
  Reasons reasons = phase_extent_reasons(c);
  if (reasons.empty() && c.N * c.P * c.Q / 32 >= 0x7fffffff) {
    reasons.push_back(std::to_string(c.N * c.P * c.Q) + " output pixels are more than one grid holds");
  }
  return reasons;
}

void run_direct(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& problem = call.problem;
  if (problem.N == 0 || problem.K == 0 || problem.P == 0 || problem.Q == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", call.x)
      .reads("w", call.w)
      .writes("y", call.y)
      .reads(call.epilogue, call.dtype, problem.K);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    visit_epilogue<T>(call.epilogue, [&](auto epilogue) {
      // Lanes follow what lies together in memory: pixels in NCHW (coalesced x and y), filters in NHWC (coalesced y, x
      // broadcast). With few filters a group, most of either tile would be empty: one filter a block then.
      if (problem.filters_per_group() < 4) {
        launch_conv2d_direct<Conv2dDirectConfig<T, 128, 1, 2, 1>>(call, epilogue, config);
      } else if (call.y.stride[1] == 1 && problem.filters_per_group() >= 32) {
        launch_conv2d_direct<Conv2dDirectConfig<T, 8, 16, 4, 4>>(call, epilogue, config);
      } else {
        launch_conv2d_direct<Conv2dDirectConfig<T, 64, 2, 2, 8>>(call, epilogue, config);
      }
    });
  });
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dDirect = {"direct", "the definition, tap by tap, on CUDA cores; any problem",
                                             direct_reasons, nullptr, run_direct};

}  // namespace fastconv::cuda
