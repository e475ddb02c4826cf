// The upsample_conv2d rows "phase_mma" and "gather_mma".
#include "algorithms.h"
#include "conv_mma.h"

namespace fastconv::cuda {
namespace {

Reasons phase_reasons(const Conv2dCall& call) {
  Reasons reasons = upsample_phase_reasons(call.problem);
  add_mma_reasons(reasons, call.dtype, false);
  if (reasons.empty()) add_conv_mma_reasons(reasons, upsample_phase_mma(call));
  return reasons;
}

bool phase_preferred(const Conv2dCall& call) { return conv_mma_preferred(upsample_phase_mma(call)); }

void run_phase(const Conv2dCall& call, const CallContext& context) { run_conv_mma(upsample_phase_mma(call), context); }

Reasons gather_reasons(const Conv2dCall& call) {
  Reasons reasons = upsample_gather_reasons(call.problem);
  add_mma_reasons(reasons, call.dtype, false);
  if (reasons.empty()) add_conv_mma_reasons(reasons, upsample_gather_mma(call));
  return reasons;
}

bool gather_preferred(const Conv2dCall& call) { return conv_mma_preferred(upsample_gather_mma(call)); }

void run_gather(const Conv2dCall& call, const CallContext& context) {
  run_conv_mma(upsample_gather_mma(call), context);
}

Prediction predict_phase(const Conv2dCall& call) { return plan_conv_mma(upsample_phase_mma(call)).predicted; }
Prediction predict_gather(const Conv2dCall& call) { return plan_conv_mma(upsample_gather_mma(call)).predicted; }

}  // namespace

const Algorithm<Conv2dCall> kUpsamplePhaseMma = {
    "phase_mma",
    "on tensor cores, fp16 and bf16, with filters summed in the workspace over the taps that meet in one stored pixel: "
    "fewer multiplications, another order of summation",
    phase_reasons,
    phase_preferred,
    run_phase,
    seconds_of<Conv2dCall, predict_phase>,
    predict_phase};

const Algorithm<Conv2dCall> kUpsampleGatherMma = {
    "gather_mma",   "on tensor cores, fp16 and bf16, with the products of the unfused pair",
    gather_reasons, gather_preferred,
    run_gather,     seconds_of<Conv2dCall, predict_gather>,
    predict_gather};

}  // namespace fastconv::cuda
