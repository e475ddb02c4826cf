// The conv2d_weight_grad row "depthwise".
#include "algorithms.h"
#include "kernels/depthwise_weight_grad.cuh"

namespace fastconv::cuda {
namespace {

Reasons reasons_against(const Conv2dWeightGradCall& call) { return depthwise_reasons(call.problem); }

template <class T, int kTaps, int kStride, int kColumns>
void run_taps(const Conv2dWeightGradCall& call, const CallContext& context) {
  constexpr int kPack = kPackSize<T>;
  if constexpr (sizeof(T) < 8) {
    if (call.problem.K == call.problem.C && channels_in_packs(call.x, kPack) && channels_in_packs(call.dy, kPack)) {
      using Config = DepthwiseWeightGradConfig<T, kTaps, kStride, kPack, kColumns>;
      return launch_depthwise_weight_grad<Config>(call, context);
    }
  }
  launch_depthwise_weight_grad<DepthwiseWeightGradConfig<T, kTaps, kStride, 1, 1>>(call, context);
}

void run(const Conv2dWeightGradCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  if (c.K == 0 || c.R == 0 || c.S == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < 8) {
      const auto is = [&](int width, int stride) { return c.S == width && c.stride_w == stride && c.dilation_w == 1; };
      if (is(3, 1)) return run_taps<T, 3, 1, 4>(call, context);
      if (is(3, 2)) return run_taps<T, 3, 2, 4>(call, context);
      if (is(5, 1)) return run_taps<T, 5, 1, 4>(call, context);
      if (is(5, 2)) return run_taps<T, 5, 2, 2>(call, context);
      if (is(7, 1)) return run_taps<T, 7, 1, 2>(call, context);
    }
    run_taps<T, 1, 1, 4>(call, context);
  });
}

}  // namespace

const Algorithm<Conv2dWeightGradCall> kConv2dWeightGradDepthwise = {
    "depthwise", "one filter per channel, sums in registers, added up in a fixed order", reasons_against, nullptr, run};

}  // namespace fastconv::cuda
