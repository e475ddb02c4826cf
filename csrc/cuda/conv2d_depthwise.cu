// The conv2d row "depthwise".
#include "algorithms.h"
#include "kernels/depthwise_general.cuh"
#include "model.h"

namespace fastconv::cuda {
namespace {

Reasons reasons_against(const Conv2dCall& call) {
  Reasons reasons = depthwise_reasons(call.problem);
  for (const std::string& reason : depthwise_filter_reasons(call.problem, 1, call.dtype)) reasons.push_back(reason);
  return reasons;
}

Prediction predict(const Conv2dCall& call) {
  const double products = static_cast<double>(call.y.numel()) * static_cast<double>(call.problem.R * call.problem.S);
  return predict_stream(tensor_bytes(call), products, false, 0.5, 1);  // half of the instructions convert and move
}

void run(const Conv2dCall& call, const CallContext& context) { run_depthwise_plan(forward_plan(call), context.stream); }

template <class T>
void run_general(const DepthwisePlan& plan, void* stream) {
  visit_epilogue<T>(plan.epilogue, [&](const auto& epilogue) {
    if constexpr (sizeof(T) < 8) {
      constexpr int kPack = kPackSize<T>;
      if (plan.spread == 1 && plan.collect == 1 && channels_in_packs(plan.in, kPack) &&
          channels_in_packs(plan.out, kPack) && plan.taps() * 4 * kPack <= (48 << 10)) {
        return launch_depthwise_general<DepthwiseGeneralConfig<T, kPack>>(plan, epilogue, stream);
      }
    }
    launch_depthwise_general<DepthwiseGeneralConfig<T, 1>>(plan, epilogue, stream);
  });
}

// Packs of channels, with as many columns as the accumulators of the waiting rows leave registers for; else one
// element, with lanes along whatever is contiguous.
template <class T, int kFilter, int kStride, int kColumns>
void run_window(const DepthwisePlan& plan, void* stream) {
  visit_epilogue<T>(plan.epilogue, [&](const auto& epilogue) {
    constexpr int kPack = kPackSize<T>;
    if (plan.spread == 1 && channels_in_packs(plan.in, kPack) && channels_in_packs(plan.out, kPack)) {
      launch_depthwise<DepthwiseConfig<T, kFilter, 1, kStride, kPack, kColumns>>(plan, epilogue, stream);
    } else {
      launch_depthwise<DepthwiseConfig<T, kFilter, 1, kStride, 1, 1>>(plan, epilogue, stream);
    }
  });
}

}  // namespace

void run_depthwise_plan(const DepthwisePlan& plan, void* stream) {
  if (plan.empty()) return;
  visit_dtype(plan.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < 8) {
      if (plan.collect == 1 && plan.is(3, 1, 1)) return run_window<T, 3, 1, 4>(plan, stream);
      if (plan.collect == 1 && plan.is(3, 1, 2)) return run_window<T, 3, 2, 2>(plan, stream);
      if (plan.collect == 1 && plan.is(5, 1, 1)) return run_window<T, 5, 1, 2>(plan, stream);
      if (plan.collect == 1 && plan.is(5, 1, 2)) return run_window<T, 5, 2, 2>(plan, stream);
      if (plan.collect == 1 && plan.is(7, 1, 1)) return run_window<T, 7, 1, 2>(plan, stream);
    }
    run_general<T>(plan, stream);
  });
}

const Algorithm<Conv2dCall> kConv2dDepthwise = {"depthwise",
                                                "one filter per channel, rows sliding through registers; memory-bound",
                                                reasons_against,
                                                nullptr,
                                                run,
                                                nullptr,
                                                predict};

}  // namespace fastconv::cuda
