// The conv2d_input_grad row "depthwise"; conv_transpose2d runs it with a bias.
#include "algorithms.h"
#include "kernels/depthwise_general.cuh"

namespace fastconv::cuda {
namespace {

Reasons reasons_against(const Conv2dInputGradCall& call) {
  Reasons reasons = depthwise_reasons(call.problem);
  if (!reasons.empty()) return reasons;
  return depthwise_filter_reasons(call.problem, call.problem.filters_per_group(), call.dtype);
}

// As in conv2d_depthwise.cu; the rows of zeros are the convolution's stride.
template <class T, int kFilter, int kColumns>
void run_window(const DepthwisePlan& plan, void* stream) {
  visit_epilogue<T>(plan.epilogue, [&](const auto& epilogue) {
    constexpr int kPack = kPackSize<T>;
    if (channels_in_packs(plan.in, kPack) && channels_in_packs(plan.out, kPack)) {
      launch_depthwise<DepthwiseConfig<T, kFilter, 2, 1, kPack, kColumns>>(plan, epilogue, stream);
    } else {
      launch_depthwise<DepthwiseConfig<T, kFilter, 2, 1, 1, 2>>(plan, epilogue, stream);
    }
  });
}

void run(const Conv2dInputGradCall& call, const CallContext& context) {
  const DepthwisePlan plan = input_grad_plan(call);
  if (plan.empty()) return;
  visit_dtype(plan.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < 8) {
      if (plan.collect == 1 && plan.is(3, 2, 1)) return run_window<T, 3, 4>(plan, context.stream);
      if (plan.collect == 1 && plan.is(5, 2, 1)) return run_window<T, 5, 2>(plan, context.stream);
    }
    run_depthwise_plan(plan, context.stream);
  });
}

}  // namespace

const Algorithm<Conv2dInputGradCall> kConv2dInputGradDepthwise = {
    "depthwise", "one filter per channel, every pixel of dx gathers its taps of dy", reasons_against, nullptr, run};

}  // namespace fastconv::cuda
