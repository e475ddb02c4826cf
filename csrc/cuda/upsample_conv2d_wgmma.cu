// The upsample_conv2d row "phase_wgmma". There is no exact row beside it: taps of the unfused pair lie at enlarged
// coordinates divided by the factor, and TMA's im2col mode only adds.
#include "algorithms.h"
#include "phases_wgmma.h"

namespace fastconv::cuda {
namespace {

Reasons reasons(const Conv2dCall& call) {
  Reasons reasons = upsample_phase_reasons(call.problem);
  if (reasons.empty()) add_phases_wgmma_reasons(reasons, upsample_phase_mma(call));
  return reasons;
}

Prediction predict(const Conv2dCall& call) { return plan_phases_wgmma(upsample_phase_mma(call)).predicted; }

void run(const Conv2dCall& call, const CallContext& context) { run_phases_wgmma(upsample_phase_mma(call), context); }

}  // namespace

const Algorithm<Conv2dCall> kUpsamplePhaseWgmma = {
    "phase_wgmma",
    "on Hopper's tensor cores (TMA im2col, wgmma), fp16 and bf16, with filters summed in the workspace over the taps "
    "that meet in one stored pixel, all phases in one launch",
    reasons,
    nullptr,
    run,
    seconds_of<Conv2dCall, predict>,
    predict};

}  // namespace fastconv::cuda
