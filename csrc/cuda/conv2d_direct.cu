// The conv2d row "direct".
#include "algorithms.h"
#include "kernels/conv2d_direct.cuh"

namespace fastconv::cuda {
namespace {

Reasons direct_reasons(const Conv2dCall& call) {
  const ConvProblem& c = call.problem;
  Reasons reasons;
  if (c.scale_h != 1 || c.scale_w != 1) {
    reasons.push_back("upsamples its input by " + std::to_string(c.scale_h) + "x" + std::to_string(c.scale_w));
  }
  // Coordinates are computed in int, with room for a window beside the image; offsets are 64-bit.
  constexpr int64_t kMaxCoordinate = 0x20000000;
  const auto limit = [&](const char* name, int64_t extent) {
    if (extent > kMaxCoordinate)
      reasons.push_back(std::string(name) + " = " + std::to_string(extent) + " is above 2^29");
  };
  limit("N", c.N);
  limit("C", c.C);
  limit("K", c.K);
  limit("R * S", c.R * c.S);
  limit("H with its padding", c.H + c.pad_top + c.pad_bottom);
  limit("W with its padding", c.W + c.pad_left + c.pad_right);
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
